"""Start the processes of a run on this machine with torch's own elastic launcher, and bring their end back whole.

The traps this closes: the launcher's exceptions do not unpickle, its signal exception is an ordinary `Exception`, it
leaves its signal handlers behind, and a worker whose parent is killed with -9 would live on.
"""

import logging
import os
import signal
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gptx.errors import GptxError, RunFailed
from gptx.processes import die_with

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class WorkerFailed(RunFailed):
    """A worker raised something that gptx does not know; the text is its traceback."""


def launched() -> bool:
    """Whether this process is already a worker (of torchrun, or of ours)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def start(function: Callable[..., Any], args: tuple[Any, ...], nproc: int, threads: int) -> None:
    """Run ``function(*args)`` in ``nproc`` processes and wait.

    Raises:
        GptxError: a worker raised one (its text), or something else (`WorkerFailed`, with the traceback).
        KeyboardInterrupt, SystemExit: this process got SIGINT, or another signal n (exit code 128 + n).
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # the launcher would set 1, with a warning
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        start_method="spawn",
        monitor_interval=0.1,
    )
    with tempfile.TemporaryDirectory(prefix="gptx-") as folder, _handlers_kept():
        try:
            elastic_launch(config, _worker)(function, args, folder, os.getpid())
        except SignalException as stop:
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stop.sigval) from None
        except ChildFailedError as failed:
            raise _first_error(Path(folder), failed) from None


def _worker(function: Callable[..., Any], args: tuple[Any, ...], folder: str, parent: int) -> None:
    die_with(parent, signal.SIGKILL)
    try:
        function(*args)
    except Exception as error:
        known = isinstance(error, GptxError)
        text = str(error) if known else traceback.format_exc()
        record = Path(folder) / f"{'known' if known else 'crash'}-{os.environ['RANK']}.part"
        record.write_text(text)
        record.rename(record.with_suffix(".txt"))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # destructors of a broken process group may wait for peers that are gone


def _first_error(folder: Path, failed: ChildFailedError) -> GptxError:
    """The error that came first: the others are mostly peers that lost their connection."""
    records = sorted(folder.glob("*.txt"), key=lambda path: path.stat().st_mtime_ns)
    if records:
        rank = records[0].stem.partition("-")[2]
        text = records[0].read_text()
        return (
            RunFailed(text) if records[0].name.startswith("known") else WorkerFailed(f"worker {rank} failed:\n{text}")
        )
    first, failure = failed.get_first_failure()
    how = signal.Signals(-failure.exitcode).name if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return RunFailed(f"worker {first} died without a word ({how}); out of memory is the usual reason")


@contextmanager
def _handlers_kept() -> Iterator[None]:
    saved = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
