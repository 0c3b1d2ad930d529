"""What the commands share: a wrong flag gets one line, as every mistake does."""

import argparse
from typing import NoReturn

from gptx.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help shows what there is")
