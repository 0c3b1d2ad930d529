"""Where the processes of a run speak: the first one on the terminal, every other one in a file of its own."""

import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def rank_log(folder: Path, rank: int) -> Iterator[TextIO]:
    """Open ``folder/rank-0001.log``, to which stdout and stderr go: file descriptors, for C++ writes to those too. The
    first rank keeps the terminal; if the interpreter crashes, its log has the trace as well.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"rank-{rank:04d}.log", "a", buffering=1) as log:
        log.write(f"--- {time.strftime('%F %T')}, process {os.getpid()} on {os.uname().nodename}\n")
        faulthandler.enable(log)
        kept = {number: os.dup(number) for number in (1, 2)} if rank else {}
        _flush()
        for number in kept:
            os.dup2(log.fileno(), number)
        try:
            yield log
        finally:
            _flush()
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
            faulthandler.disable()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
