"""What gptx says to a user who asked for something that cannot be. One line each: given, expected, what would work."""

import os


class GptxError(ValueError):
    """Base of every error meant for the user; the command prints its text as one line and exits with ``exit_code``."""

    exit_code = 2


class ConfigError(GptxError):
    """A wrong key, type, option or combination, found before anything was started."""


class DataError(GptxError):
    """A corpus or a tokenizer that is missing, empty, unreadable or not what its hash says."""


class NotTokenised(DataError):
    """A corpus whose tokens would have to be made first."""


class RunFailed(GptxError):
    """Training stopped for a reason the user can act on (loss not finite, a worker died, a disk that is full)."""

    exit_code = 1


class CheckpointError(RunFailed):
    """A checkpoint that is damaged, of another model, or not there."""


class Interrupted(Exception):
    """A signal (its number is the argument, if known) asked the run to stop; it stands on the disk, ready to go on."""


def reason(error: BaseException) -> str:
    """One line of an error."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GptxError) else f"{type(error).__name__}: {text}"


def processes_as(count: int) -> str:
    """How so many processes are asked for: of the command, or of torchrun where that started this one."""
    return f"--nproc-per-node={count}" if "RANK" in os.environ else f"strategy.nproc={count}"


def option(part: object) -> str:
    """The option that a part of gptx's is, for a message: its file has the option's name."""
    return type(part).__module__.rpartition(".")[2]
