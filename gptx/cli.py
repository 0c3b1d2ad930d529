"""Functions that all commands share: parsing, one-line errors, exit codes, logging.

Results go to stdout, diagnostics to stderr through the logger ``gptx``, each line with the prefix ``gptx: ``.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from gptx.errors import ConfigError, GptxError, Interrupted
from gptx.terminal import prepare, visible

EXIT_CODES = {
    0: "done; a finished run's command shows its result",
    1: "failed: stderr says why; repeating a run's command resumes it. sweep: a run failed; certify: results differ",
    2: "mistake in the command, the config or the files it names; nothing was started",
    75: "run stopped by SIGTERM, SIGUSR1 or SIGUSR2 of a scheduler after a checkpoint; the same command resumes it",
    129: "stopped by SIGHUP because the terminal was closed; a run has written a checkpoint",
    130: "stopped by Ctrl-C; a run has written a checkpoint, and the same command resumes it",
}
FAILED, MISTAKE, EXIT_RESUMABLE = 1, 2, 75  # 75: EX_TEMPFAIL
VERBOSITY = {"-v": 1, "--verbose": 1, "-q": -1, "--quiet": -1}

log = logging.getLogger("gptx")


class Parser(argparse.ArgumentParser):
    """A parser that raises `ConfigError` where argparse would exit. It adds ``-v`` and ``-q`` and, below the help, the
    exit codes.

    Args:
        prog: the command, e.g. ``gptx compare``.
        description: text above the options.
        epilog: text below the options.
        options: other arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, prog: str, description: str | None = None, epilog: str = "", **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        text = "\n".join(filter(None, [epilog, exit_code_table()]))
        super().__init__(prog, description=description, epilog=text, allow_abbrev=False, **options)
        self.add_argument("-v", "--verbose", action="count", default=0, help="show diagnostics")
        self.add_argument("-q", "--quiet", action="store_true", help="show errors only, no warnings")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments, and set the log level that ``-v`` and ``-q`` request."""
        found = super().parse_args(args, namespace)
        configure_logging(-1 if found.quiet else found.verbose)
        return found

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help lists the options")


def exit_code_table() -> str:
    """The exit codes of all commands, one line for each code."""
    return "\n".join(["exit codes:", *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())])


def exit_code(work: Callable[[], object], broken_pipe: int = 0) -> int:
    """Run a command. Return the exit code that ``work`` returns (0 if it returns no int) or that its error has.

    An error that is meant for the user is one line on stderr. Ctrl-C, a full disk and a closed pipe print no traceback.

    Args:
        broken_pipe: the exit code if the reader of the output ends early, as in ``gptx compare | head``.
    """
    prepare()
    configure_logging()
    code = 0
    try:
        result = work()
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
        return code
    except GptxError as error:
        return _fail(error, str(error), error.exit_code)
    except BrokenPipeError:
        return code or broken_pipe
    except OSError as error:
        return _fail(error, str(error), FAILED)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich ends the process instead of raising it
            return broken_pipe
        raise
    except (KeyboardInterrupt, Interrupted) as stop:
        return _fail(stop, "interrupted", stop_exit_code(next(iter(stop.args), signal.SIGINT)))
    finally:
        _discard_unread_output()


def stop_exit_code(number: int) -> int:
    """Return the exit code of a command that stopped cleanly after signal ``number`` (0: the signal was
    received by only one of its workers)."""
    return 128 + number if number in (signal.SIGINT, signal.SIGHUP) else EXIT_RESUMABLE


def _fail(error: BaseException, text: str, code: int) -> int:
    log.debug("traceback of the error:", exc_info=error)
    log.error("%s", text)
    return code


def _discard_unread_output() -> None:
    """Discard output that cannot be written: otherwise the interpreter would report the closed pipe or the full device
    again when it exits, and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except ValueError:  # it is closed
            pass


def default_sigint() -> None:
    """Let Ctrl-C raise KeyboardInterrupt; a shell makes its background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _Visible(logging.Formatter):
    """Formats a record with its control characters made visible."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``, which may have been replaced since the start."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_Visible("gptx: %(message)s"))

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None: ...


def configure_logging(verbosity: int | None = None) -> None:
    """Send the logger ``gptx`` to stderr.

    Args:
        verbosity: -1: errors only; 0: warnings too; 1 or more: everything. None: unchanged, or 0 at first.
    """
    if not any(isinstance(handler, _Stderr) for handler in log.handlers):
        log.addHandler(_Stderr())
        log.propagate = False
        verbosity = verbosity or 0
    if verbosity is not None:
        log.setLevel(logging.DEBUG if verbosity > 0 else logging.ERROR if verbosity < 0 else logging.WARNING)


def split_verbosity(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Separate ``-v`` and ``-q`` from the arguments of a command whose parser is not a `Parser`."""
    given = [VERBOSITY[argument] for argument in arguments if argument in VERBOSITY]
    return sum(given), [argument for argument in arguments if argument not in VERBOSITY]
