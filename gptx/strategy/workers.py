"""Start the processes of a run on this machine with torch's own elastic launcher, and bring their end back whole.

The traps this closes: the launcher's exceptions do not unpickle; on a signal it waits half a minute for workers that
have stopped long ago; a worker whose parent is killed with -9 would live on; and one that a terminal's Ctrl-C meets in
the middle of its imports would print a traceback.
"""

import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gptx.errors import GptxError, RunFailed
from gptx.processes import die_with

LOST = re.compile(r"Connection (closed|reset|refused)|Broken pipe|gloo|NCCL")  # what a dead worker's peers report
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class WorkerFailed(RunFailed):
    """A worker raised something that gptx does not know; the text is its traceback."""


def launched() -> bool:
    """Whether this process is already a worker (of torchrun, or of ours)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def start(function: Callable[..., Any], args: tuple[Any, ...], nproc: int, threads: int) -> int:
    """Run ``function(*args)`` in ``nproc`` processes and wait.

    Returns:
        0, or the number of the signal that this process got and handed on to them.

    Raises:
        GptxError: a worker raised one (its text), or something else (`WorkerFailed`, with the traceback).
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
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
        signals_to_handle="SIGQUIT",  # the others are ours
    )
    got: list[int] = []
    with tempfile.TemporaryDirectory(prefix="gptx-") as folder, contextlib.suppress(_Leave):
        try:
            with _handing_on(Path(folder), nproc, got):
                elastic_launch(config, _worker)(function, args, folder, os.getpid())
        except ChildFailedError as failed:
            if not got:
                raise _first_error(Path(folder), failed) from None
    return got[0] if got else 0


def _worker(function: Callable[..., Any], args: tuple[Any, ...], folder: str, parent: int) -> None:
    die_with(parent, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the training loop listens: die at once, without a word
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Path(folder, f"{os.getpid()}.pid").touch()
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
    """The error that came first; that a peer lost its connection is none, unless all of them say so."""
    lost: list[tuple[str, str]] = []  # rank, traceback
    for record in sorted(folder.glob("*.txt"), key=lambda path: path.stat().st_mtime_ns):
        kind, _, rank = record.stem.partition("-")
        text = record.read_text()
        if kind == "known":
            return RunFailed(text)
        if not LOST.search(text.splitlines()[-1]):
            return WorkerFailed(f"worker {rank} failed:\n{text}")
        lost.append((rank, text))
    if lost and len(lost) == len(list(folder.glob("*.pid"))):
        return WorkerFailed("worker {} failed:\n{}".format(*lost[0]))
    code = failed.get_first_failure()[1].exitcode
    how = f" ({signal.Signals(-code).name})" if code < 0 else ""
    others = "".join(f"; worker {rank} got: {text.splitlines()[-1]}" for rank, text in lost[:1])
    return RunFailed(f"a worker died without a word{how}: out of memory is the usual reason{others}")


class _Leave(BaseException):
    """A signal came, and there is nothing to wait for: workers are still missing, or have been killed."""


@contextmanager
def _handing_on(folder: Path, nproc: int, got: list[int]) -> Iterator[None]:
    """Signals that come are noted in ``got`` and handed on to the workers, which then end by themselves, at the same
    step; a second one kills them, and more change nothing. One that is ignored (nohup's SIGHUP) stays so."""

    def hand_on(number: int, frame: object) -> None:
        got.append(number)
        if len(got) > 2:
            return
        pids = [int(path.stem) for path in folder.glob("*.pid")]
        if len(pids) < nproc:
            raise _Leave
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number if len(got) == 1 else signal.SIGKILL)
        if len(got) > 1:
            raise _Leave  # the launcher is not to wait for a word of theirs

    heard = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    saved = {number: signal.signal(number, hand_on) for number in heard}
    try:
        with _sigint_held():
            yield
    finally:
        for number, handler in saved.items() if len(got) < 2 else ():
            signal.signal(number, handler)


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Processes that are started in here begin with SIGINT blocked: they inherit the mask of the thread that starts
    them. This process still gets it: the kernel gives it to another thread, and Python handles it in the main one."""
    resource_tracker.ensure_running()  # else the first process to start brings it along, and that unblocks SIGINT
    over = threading.Event()
    threading.Thread(target=over.wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        over.set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
