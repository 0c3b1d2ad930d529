"""Start the workers of a run on this machine, watch them, and report the root cause when one fails.

A failed worker leaves its peers waiting in a collective: they are killed after a grace period. Workers die with their
parent, even when it is killed with SIGKILL. Signals are blocked while workers import torch, where a handler is not yet
installed: they would print a traceback after Ctrl-C and be killed by a scheduler's warning signal.
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
from dataclasses import asdict, dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from gptx.errors import GptxError, RunFailed
from gptx.processes.children import describe_exit, die_with_parent, end_rank
from gptx.processes.signals import STOP_SIGNALS, count_stop_requests, unblocked_stop_signals
from gptx.processes.worker_logs import rank_log
from gptx.terminal import echo

CONNECTION_LOST = re.compile(r"Connection (closed|reset|refused)|Broken pipe|gloo|NCCL")  # reported by peers
FORWARDED_SIGNALS = {*STOP_SIGNALS, signal.SIGHUP}
GRACE = 5.0  # seconds that the other workers have, after one failed, to report their own errors


class WorkerLost(RunFailed):
    """A worker was killed or raised an exception that is not a `GptxError`; a new attempt may succeed."""


@dataclass(frozen=True)
class WorkerFailure:
    """The error of a worker, which it writes to a file for the main process.

    Attributes:
        message: one line.
        retriable: `WorkerLost` was raised: a new attempt may succeed.
        connection_lost: the error follows from the failure of another worker.
    """

    message: str
    retriable: bool
    connection_lost: bool

    def write(self, folder: Path, rank: str) -> None:
        """Write the file in one step, so that a reader never sees an incomplete file."""
        path = folder / f"{rank}.part"
        path.write_text(json.dumps(asdict(self)))
        path.rename(path.with_suffix(".json"))

    def error(self) -> GptxError:
        """The same error, to raise in the main process."""
        return (WorkerLost if self.retriable else RunFailed)(self.message)


def broadcast_from_rank_0(text: str) -> str:
    """Return the text that rank 0 passes, in every process of torchrun. It uses torchrun's own store and so works
    before the process group exists. Without torchrun, return ``text`` unchanged."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return text
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun may reuse its store after a restart
    key = f"gptx/broadcast/{restart}"
    if os.environ["RANK"] == "0":
        store.set(key, text)
    return str(store.get(key).decode())


def start(function: Callable[..., Any], args: tuple[Any, ...], nproc: int, threads: int, logs: Path) -> int:
    """Run ``function(*args)`` in ``nproc`` processes, which log to the folder ``logs``, and wait for them.

    Args:
        threads: CPU threads of each process.

    Returns:
        0, or the number of the first stop signal that this process received and forwarded to the workers.

    Raises:
        GptxError: the error that a worker raised; `WorkerLost` if it died or raised another exception.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch reads it when it is imported, before a worker's first line
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(nproc))
    spawn = multiprocessing.get_context("spawn").Process
    with tempfile.TemporaryDirectory(prefix="gptx-") as folder:
        ranks = [environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(nproc)]
        workers = [spawn(target=_worker, args=(function, args, own, folder, logs)) for own in ranks]
        with _forward_signals(workers) as received:
            _start_all(workers, received)
            failed = _watch(workers)
        if failed and not received:
            raise _root_cause(Path(folder), failed, nproc, logs)
    return received[0] if received else 0


def _worker(
    function: Callable[..., Any], args: tuple[Any, ...], environment: dict[str, str], folder: str, logs: Path
) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    die_with_parent(parent.pid, signal.SIGKILL)
    os.environ.update(environment)
    try:
        run_as_rank(function, args, logs)
    except GptxError as error:
        connection_lost = bool(CONNECTION_LOST.search(_last_line(error)))
        failure = WorkerFailure(str(error), isinstance(error, WorkerLost), connection_lost)
        failure.write(Path(folder), environment["RANK"])
        end_rank(1)
    end_rank(0)


def run_as_rank(function: Callable[..., Any], args: tuple[Any, ...], logs: Path) -> None:
    """Run ``function(*args)`` as one rank of several, with its own log file.

    Raises:
        GptxError: as ``function`` raised it; any other exception becomes a `WorkerLost` of one line, with the
            traceback in the log.
    """
    rank, last = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) - 1
    with rank_log(logs, rank) as log:
        try:
            function(*args)
        except GptxError:
            raise
        except Exception as error:
            echo(traceback.format_exc(), file=log)
            cause = _last_line(error)
            problem = "lost the connection to another worker" if CONNECTION_LOST.search(cause) else "failed"
            raise WorkerLost(f"worker {rank} (of 0..{last}) {problem}: {cause}; see {log.name}") from error


def _last_line(error: BaseException) -> str:
    """Return the last line of the traceback of an error, or of the exception that a `WorkerLost` wraps."""
    original = error.__cause__ if isinstance(error, WorkerLost) and error.__cause__ else error
    return traceback.format_exception_only(original)[-1].strip().splitlines()[-1]


def _root_cause(folder: Path, failed: dict[int, int], nproc: int, logs: Path) -> GptxError:
    """Return the first error that is not a consequence of another worker's failure: a lost connection counts only when
    every worker reports one.

    Args:
        folder: where the workers wrote their `WorkerFailure`.
        failed: exit codes by rank, in the order in which the workers ended.
    """
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    failures = {int(file.stem): WorkerFailure(**json.loads(file.read_text())) for file in files}
    unreported = [rank for rank in failed if rank not in failures]
    causes = [failure for failure in failures.values() if not failure.connection_lost]
    if not unreported:
        causes = causes or list(failures.values())
    if causes:
        return causes[0].error()
    rank, code = unreported[0], failed[unreported[0]]
    hint = ": out of memory is the usual reason" if code == -signal.SIGKILL else ""
    log = logs / f"rank-{rank:04d}.log"
    return WorkerLost(f"worker {rank} (of 0..{nproc - 1}) died ({describe_exit(code)}){hint}; see {log}")


def _start_all(workers: Sequence[SpawnProcess], received: list[int]) -> None:
    """Start the workers with all stop signals but SIGTERM blocked (they inherit the mask): SIGTERM ends them until the
    training loop installs its handlers."""
    resource_tracker.ensure_running()  # else the first start creates it, and that unblocks SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS - {signal.SIGTERM})
    for worker in workers:
        worker.start()
    if received:  # while a worker that was just started had no process id yet
        _send(workers, signal.SIGTERM)


def _watch(workers: Sequence[SpawnProcess]) -> dict[int, int]:
    """Wait for all workers. When one fails, kill the others after `GRACE` seconds.

    Returns:
        The exit codes, by rank, of the workers that failed without being killed here, in the order in which they ended.
    """
    running = {worker.sentinel: rank for rank, worker in enumerate(workers)}
    failed: dict[int, int] = {}
    deadline: float | None = None
    with unblocked_stop_signals():
        while running:
            ended = connection.wait(list(running), deadline and max(0.0, deadline - time.monotonic()))
            if not ended:
                break
            for sentinel in ended:
                rank = running.pop(sentinel)  # type: ignore[arg-type]
                workers[rank].join()
                if code := workers[rank].exitcode:
                    failed[rank] = code
                    deadline = deadline or time.monotonic() + GRACE
        _send(workers, signal.SIGKILL)
        for worker in workers:
            worker.join()
    return failed


def _send(workers: Sequence[SpawnProcess], number: int) -> None:
    for worker in workers:
        if worker.pid is not None and worker.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)


@contextmanager
def _forward_signals(workers: Sequence[SpawnProcess]) -> Iterator[list[int]]:
    """Record the signals received within the block and forward them to the workers as SIGTERM: workers that train end
    at the same step, workers that are still starting end at once. A second stop request kills them, and further ones
    have no effect. An ignored SIGHUP (nohup) stays ignored."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        if count_stop_requests(received) < 2:
            received.append(number)
            _send(workers, signal.SIGTERM if count_stop_requests(received) < 2 else signal.SIGKILL)

    forwarded = FORWARDED_SIGNALS - ({signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set())
    handlers = {number: signal.signal(number, forward) for number in forwarded}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield received
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if count_stop_requests(received) < 2:
            for number, handler in handlers.items():
                signal.signal(number, handler)
