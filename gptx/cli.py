"""What the commands share: a wrong flag gets one line, as every mistake does."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from gptx.errors import ConfigError, GptxError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help shows what there is")


def check_json(path: Path | None) -> None:
    """Of ``--json FILE``, before anything is measured."""
    if path and not path.parent.is_dir():
        raise GptxError(f"--json {path}: there is no folder {path.parent}")


def exit_code(work: Callable[[], object]) -> int:
    """Of a command: 0, that of an error after one line on stderr, or 130 after Ctrl-C."""
    try:
        work()
    except GptxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0
