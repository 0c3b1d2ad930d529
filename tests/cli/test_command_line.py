"""What all commands share: one name, one prefix, exit codes, verbosity, pipes, shell completion."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys

import pytest
from command import ROOT, Gptx
from conftest import Trained

from gptx import cli, ui
from gptx.__main__ import COMMANDS
from gptx.__main__ import main as gptx_main
from gptx.errors import ConfigError, GptxError, Interrupted, RunFailed


def start(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """``gptx ARGUMENTS`` in a new process."""
    command = [sys.executable, "-m", "gptx", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert gptx_main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f"  {command} " in shown for command in COMMANDS)
        assert all(f"{code:>5}  {meaning}" in shown for code, meaning in cli.EXIT_CODES.items())
    assert cli.EXIT_RESUMABLE in cli.EXIT_CODES


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "run"])
def test_every_command_has_help_and_reports_a_wrong_flag_in_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gptx_main([command, "--nonsense"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("gptx: ") and shown.err.count("\n") == 1
    with pytest.raises(SystemExit) as end:
        gptx_main([command, "--help"])
    assert end.value.code == 0
    assert cli.exit_code_table() in capsys.readouterr().out


def test_unknown_command_is_one_line_with_the_most_similar_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert gptx_main(["rum"]) == 2
    assert capsys.readouterr().err.startswith("gptx: unknown command 'rum'. Did you mean 'run'? Commands: run, ")


def test_help_and_mistakes_import_neither_torch_nor_hydra() -> None:
    code = "import sys; from gptx.__main__ import main; main(['--help']); main(['rum']); "
    code += "print({'torch', 'hydra', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_sweep_with_overrides_is_run_with_m(gptx: Gptx) -> None:
    """Anything but a verb such as ``list`` is a sweep."""
    done = gptx.run("gptx", "sweep", *gptx.tiny, "attention=mha,gqq", "dry_run=true")
    assert done.code == 2 and "attention=gqq" in done.out
    none = gptx.run("gptx", "sweep", "list")
    assert none.code == 2 and none.err.startswith("gptx: no sweep in outputs")


def test_python_m_gptx_sweep_accepts_overrides(gptx: Gptx) -> None:
    done = gptx.run("gptx.sweep", *gptx.tiny, "attention=mha,gqq", "dry_run=true")
    assert done.code == 2 and "attention=gqq" in done.out


def test_gptx_run_is_the_same_command_as_python_m(trained: Trained) -> None:
    done = trained.gptx.run("gptx", "run", *trained.gptx.tiny, "strategy=single")
    assert done.code == 0 and "finished already" in done.out
    again = trained.gptx.run("gptx", "run", "-v", *trained.gptx.tiny)
    assert again.code == 0 and f"gptx: identity {trained.folder.name[-10:]}" in again.err
    assert again.out == done.out
    assert not set("\r\x1b\x08") & set(done.out + again.err)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("key=1: expected 2"), 2, "gptx: key=1: expected 2\n"),
        (RunFailed("a worker was lost"), 1, "gptx: a worker was lost\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "gptx: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "gptx: interrupted\n"),
        (Interrupted(signal.SIGINT), 130, "gptx: interrupted\n"),
        (Interrupted(signal.SIGHUP), 129, "gptx: interrupted\n"),
        (Interrupted(signal.SIGTERM), 75, "gptx: interrupted\n"),
        (BrokenPipeError(), 0, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_error_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    def fail() -> None:
        raise error

    assert cli.exit_code(fail) == code
    assert capsys.readouterr().err == line


def test_closed_pipe_of_rich_is_no_failure() -> None:
    def show() -> None:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            sys.exit(1)  # as rich does

    assert (cli.exit_code(show), cli.exit_code(show, broken_pipe=1)) == (0, 1)


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_run_whose_output_is_not_read_fails_and_the_next_one_finishes(strategy: str, gptx: Gptx) -> None:
    command = ["gptx", "run", *gptx.tiny, f"strategy={strategy}"]
    assert gptx.run_unread(*command, stderr=True) == 1
    result = json.loads((gptx.folder / "result.json").read_text())
    assert (result["status"], result["end_reason"]) == ("failed", "error") and result["steps"] < 30
    assert gptx.run_unread(*command, stderr=False) == 0
    assert json.loads((gptx.folder / "result.json").read_text())["status"] == "finished"


def test_ui_returns_0_after_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(ui, "show_ui", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    try:
        assert ui.main([]) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_errors_are_no_value_errors() -> None:
    assert GptxError.__mro__[1] is Exception


def test_verbosity(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for flags in ([], ["-q"], ["-v"]):
        cli.Parser("gptx test").parse_args(flags)
        for level in ("debug", "warning", "error"):
            getattr(cli.log, level)(level)
        shown[" ".join(flags)] = capsys.readouterr().err.replace("gptx: ", "").split()
    cli.configure_logging(0)
    assert shown == {"": ["warning", "error"], "-q": ["error"], "-v": ["debug", "warning", "error"]}
    assert cli.split_verbosity(["-q", "seed=1", "--verbose", "-v"]) == (1, ["seed=1"])


def test_closed_pipe_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m gptx run --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("gptx ", set(COMMANDS)),
        ("gptx run attention=", {"attention=mha", "attention=gqa"}),
        ("gptx run attention=mha trainer.max", {"trainer.max_steps=", "trainer.max_skips="}),
        ("gptx sweep po", {"pos="}),
        ("gptx compare ", set()),
    ],
)
def test_shell_completion(line: str, choices: set[str]) -> None:
    done = start("-sc", "query=bash", COMP_LINE=line)
    assert done.returncode == 0, done.stderr
    assert choices <= set(done.stdout.split()) and bool(choices) == bool(done.stdout.split())


def test_shell_completion_script() -> None:
    done = start("-sc", "install=bash")
    assert done.returncode == 0 and "hydra_bash_completion" in done.stdout
