"""Log files of workers: rank 0 writes to the terminal, every other rank to its own file."""

import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gptx.regular_files import open_log


@contextmanager
def rank_log(folder: Path, rank: int) -> Iterator[IO[str]]:
    """Open ``folder/rank-0001.log`` and redirect stdout and stderr to it within the block. The file descriptors are
    redirected, because C++ code writes to them too. Rank 0 is not redirected. The stack trace of a crash of the
    interpreter is written to the log of every rank.

    Raises:
        OSError: the file cannot be written.
    """
    with open_log(folder / f"rank-{rank:04d}.log", "a", buffering=1, errors="replace") as log:
        log.write(f"--- {time.strftime('%F %T')}, process {os.getpid()} on {os.uname().nodename}\n")
        faulthandler.enable(log)
        originals = {number: os.dup(number) for number in (1, 2)} if rank else {}
        _flush()
        for number in originals:
            os.dup2(log.fileno(), number)
        try:
            yield log
        finally:
            _flush()
            for number, original in originals.items():
                os.dup2(original, number)
                os.close(original)
            faulthandler.disable()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
