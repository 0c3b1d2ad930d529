"""Errors meant for the user. Each message is one line: what was given, what is expected, what would work."""

import os


class GptxError(Exception):
    """Base class. A command prints the text as one line and ends with ``exit_code``."""

    exit_code = 2


class ConfigError(GptxError):
    """A wrong key, type, option or combination, found before anything was started."""


class DataError(GptxError):
    """A corpus or a tokenizer is missing, empty or unreadable, or does not have the expected hash."""


class NotTokenised(DataError):
    """A corpus has not been tokenised yet, and the caller did not allow tokenising it."""


class RunFailed(GptxError):
    """Training ended for a reason that the user can act on: loss not finite, a lost worker, a full disk."""

    exit_code = 1


class CheckpointError(RunFailed):
    """A checkpoint is missing, is damaged, or belongs to another model."""


class Interrupted(Exception):
    """A signal asked the run to stop; a checkpoint is written. The argument is the signal's number, if known."""


def reason(error: BaseException) -> str:
    """An error as one line, with the name of its class unless it is meant for the user."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GptxError) else f"{type(error).__name__}: {text}"


def processes_as(count: int) -> str:
    """The setting for ``count`` processes, for messages: an override, or in workers of torchrun its argument."""
    return f"--nproc-per-node={count}" if "RANK" in os.environ else f"strategy.nproc={count}"


def option(part: object) -> str:
    """The name of an option, for messages: of a built-in one, the name of the file that contains its class; otherwise
    the class with its module."""
    module = type(part).__module__
    return module.rpartition(".")[2] if module.startswith("gptx.") else f"{module}.{type(part).__qualname__}"
