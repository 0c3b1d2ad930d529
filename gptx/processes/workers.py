"""Start the processes of a run on this machine, watch over them, and bring their end back whole.

The traps this closes: a worker that dies leaves its peers waiting for it; one whose parent is killed with -9 would live
on; one that a terminal's Ctrl-C meets in the midst of its imports would print a traceback, and one that a scheduler's
warning meets there would die of it.
"""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from gptx.errors import GptxError, RunFailed
from gptx.processes.children import STOPS, die_with, ending, insisted, listening
from gptx.processes.worker_logs import rank_log

CUT = re.compile(r"Connection (closed|reset|refused)|Broken pipe|gloo|NCCL")  # what a dead worker's peers report
SIGNALS = {*STOPS, signal.SIGHUP}
GRACE = 5.0  # seconds that the others have when one is lost, to say what they know of it


class WorkerLost(RunFailed):
    """A worker died, or raised something that gptx does not know: it may go better another time."""


def first_says(word: str) -> str:
    """What the first rank says here; the others' words count for nothing. Asked before the process group stands, of
    torchrun's own store; without torchrun (which else could hold it?) each has its own word.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return word
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"gptx/first says/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"  # a store may outlive a round
    if os.environ["RANK"] == "0":
        store.set(key, word)
    return str(store.get(key).decode())


def start(function: Callable[..., Any], args: tuple[Any, ...], nproc: int, threads: int, logs: Path) -> int:
    """Run ``function(*args)`` in ``nproc`` processes, which log to the folder ``logs``, and wait.

    Returns:
        0, or the number of the signal that this process got, and handed on to them.

    Raises:
        GptxError: a worker raised one (its text), or was lost (`WorkerLost`).
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is loaded, so before a worker's first line
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    here |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(nproc))
    with tempfile.TemporaryDirectory(prefix="gptx-") as folder:
        crew = [
            multiprocessing.get_context("spawn").Process(
                target=_worker, args=(function, args, here | {"RANK": str(i), "LOCAL_RANK": str(i)}, folder, logs)
            )
            for i in range(nproc)
        ]
        with _handing_on(crew) as got:
            _begin(crew, got)
            failed = _watch(crew)
        if failed and not got:
            raise _first_error(Path(folder), failed, nproc, logs)
    return got[0] if got else 0


def _worker(
    function: Callable[..., Any], args: tuple[Any, ...], environment: dict[str, str], folder: str, logs: Path
) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    die_with(parent.pid, signal.SIGKILL)
    os.environ.update(environment)
    try:
        as_rank(function, args, logs)
    except GptxError as error:
        told = {"lost": isinstance(error, WorkerLost), "cut": bool(CUT.search(_cause(error))), "text": str(error)}
        record = Path(folder) / f"{environment['RANK']}.part"
        record.write_text(json.dumps(told))
        record.rename(record.with_suffix(".json"))
        os._exit(1)  # destructors of a broken process group may wait for peers that are gone


def as_rank(function: Callable[..., Any], args: tuple[Any, ...], logs: Path) -> None:
    """Run ``function(*args)`` as one rank of several, with a log of its own.

    Raises:
        GptxError: its own, or `WorkerLost`, a line, for anything else: the log has the traceback.
    """
    rank, last = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) - 1
    with rank_log(logs, rank) as log:
        try:
            function(*args)
        except GptxError:
            raise
        except Exception as error:
            traceback.print_exc(file=log)
            how = "lost another one" if CUT.search(_cause(error)) else "failed"
            raise WorkerLost(f"worker {rank} (of 0..{last}) {how}: {_cause(error)}; see {log.name}") from error


def _cause(error: BaseException) -> str:
    """The last line of a traceback, of the error that began it."""
    begun = error.__cause__ if isinstance(error, WorkerLost) and error.__cause__ else error
    return traceback.format_exception_only(begun)[-1].strip().splitlines()[-1]


def _first_error(folder: Path, failed: dict[int, int], nproc: int, logs: Path) -> GptxError:
    """The error that came first; that a peer lost its connection is none, unless all of them say so."""
    records = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    told = {int(record.stem): json.loads(record.read_text()) for record in records}
    silent = [rank for rank in failed if rank not in told]
    causes = [one for one in told.values() if not one["cut"]]
    if not silent:
        causes = causes or list(told.values())
    first = next(iter(causes), None)
    if first is not None:
        return (WorkerLost if first["lost"] else RunFailed)(first["text"])
    rank, code = silent[0], failed[silent[0]]
    memory = ": out of memory is the usual reason" if code == -signal.SIGKILL else ""
    log = logs / f"rank-{rank:04d}.log"
    return WorkerLost(f"worker {rank} (of 0..{nproc - 1}) died without a word ({ending(code)}){memory}; see {log}")


def _begin(crew: Sequence[SpawnProcess], got: list[int]) -> None:
    """Start them with their ears shut: they inherit the mask. SIGTERM ends them until the training loop listens."""
    resource_tracker.ensure_running()  # else the first process to start brings it along, and that unblocks SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS - {signal.SIGTERM})
    for one in crew:
        one.start()
    if got:  # while one was not yet known to have a number
        _send(crew, signal.SIGTERM)


def _watch(crew: Sequence[SpawnProcess]) -> dict[int, int]:
    """Wait until all have ended. When one is lost, the others have but a short time.

    Returns:
        The exit codes of those that ended badly, by themselves, in that order.
    """
    running = {one.sentinel: rank for rank, one in enumerate(crew)}
    failed: dict[int, int] = {}
    deadline: float | None = None
    with listening():
        while running:
            ended = connection.wait(list(running), deadline and max(0.0, deadline - time.monotonic()))
            if not ended:
                break
            for sentinel in ended:
                rank = running.pop(sentinel)  # type: ignore[arg-type]
                crew[rank].join()
                if code := crew[rank].exitcode:
                    failed[rank] = code
                    deadline = deadline or time.monotonic() + GRACE
        _send(crew, signal.SIGKILL)
        for one in crew:
            one.join()
    return failed


def _send(crew: Sequence[SpawnProcess], number: int) -> None:
    for one in crew:
        if one.pid is not None and one.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, number)


@contextmanager
def _handing_on(crew: Sequence[SpawnProcess]) -> Iterator[list[int]]:
    """Signals that come are noted, and handed on to the workers as SIGTERM: those that train end by themselves, at the
    same step, and those that are still starting at once. A second one kills them, and more change nothing. One that is
    ignored (nohup's SIGHUP) stays so."""
    got: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        if insisted(got) < 2:
            got.append(number)
            _send(crew, signal.SIGTERM if insisted(got) < 2 else signal.SIGKILL)

    heard = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    saved = {number: signal.signal(number, hand_on) for number in heard}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield got
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in saved.items() if insisted(got) < 2 else ():
            signal.signal(number, handler)
