"""A separate process that writes runs to MLflow while they train. Training never waits for it or imports mlflow.

``Follower`` starts the process and holds the writing end of its stdin. When the trainer ends, for whatever reason, the
pipe closes: the process then replays the journal a last time, sets the run's status and exits.
"""

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gptx.processes.signals import STOP_SIGNALS, default_stop_signals
from gptx.regular_files import open_log
from gptx.runs import journal
from gptx.runs.atomic_files import no_space
from gptx.terminal import echo, shell_words
from gptx.tracking.mlflow_connection import one_line, store_uri, without_password

if TYPE_CHECKING:
    from gptx.tracking.mlflow_writer import Replay
    from gptx.tracking.sweep_writer import SweepReplay

_POLL = 2.0  # seconds between two reads of a journal
_MAX_PAUSE = 30.0  # longest pause in seconds between two attempts to reach a store
_LOCK_DELAY = 5.0  # seconds that a run's lock may exist after its trainer closed the pipe


class Follower:
    """Starts and controls the process from the trainer. The process follows runs until ``finish``."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, wait: float, hint: str) -> None:
        self._process, self._log, self._wait, self._hint = process, log, wait, hint

    @classmethod
    def start(
        cls, run_dirs: Sequence[Path], tracking: Mapping[str, Any], outputs: Path, sweep: Path | None = None
    ) -> "Follower | None":
        """Start following run folders below ``outputs``.

        Args:
            sweep: the folder of the sweep to which they belong.
            tracking: the config group ``tracking``: enabled, uri, follow, wait (seconds), experiment, weights.

        Returns:
            None if ``enabled`` or ``follow`` is false.
        """
        if not (tracking["enabled"] and tracking["follow"]):
            return None
        log = outputs / ".logs" / f"tracking-{os.getpid()}{f'-{run_dirs[0].name}' if run_dirs else ''}.log"
        with open_log(log, "ab") as stderr:
            process = subprocess.Popen(
                _command(run_dirs, tracking, outputs, sweep),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=_environment(),
                start_new_session=True,  # so that Ctrl-C reaches the trainer only
            )
        uri = str(tracking["uri"])
        given = ["--uri", without_password(uri)] if uri else []
        command_line = shell_words(["gptx", "sync", str(outputs), *given])
        where = without_password(store_uri(outputs, uri))
        hint = f"MLflow at {where} is incomplete (see {log}); to complete it run: {command_line}"
        return cls(process, log, float(tracking["wait"]), hint)

    def add(self, run_dir: Path) -> None:
        """Follow one more run."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has died; `finish` reports it
            os.write(self._process.stdin.fileno(), os.fsencode(f"{run_dir}\n"))

    def finish(self) -> str | None:
        """Wait until all records are sent, until Ctrl-C, or for at most ``wait`` seconds.

        Returns:
            A message for the user if MLflow is incomplete, else None.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            with default_stop_signals():
                arrived = self._process.wait(self._wait) == 0
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not suppress the message
            self._process.kill()  # nothing is lost: `gptx sync` sends the rest from the journal
            self._process.wait()
            signal.signal(signal.SIGINT, before)
            arrived = False
        if arrived and not self._log.stat().st_size:
            self._log.unlink()
        return None if arrived else self._hint


def _command(run_dirs: Sequence[Path], tracking: Mapping[str, Any], outputs: Path, sweep: Path | None) -> list[str]:
    """The command line of the process: see `main`."""
    command = [sys.executable, "-P", "-m", "gptx.tracking.follower", *map(str, run_dirs), "--outputs", str(outputs)]
    for key in ("uri", "experiment", "wait"):
        command += [f"--{key}", str(tracking[key])]
    command += ["--sweep", str(sweep)] if sweep else []
    return [*command, "--weights" if tracking["weights"] else "--no-weights"]


def _environment() -> dict[str, str]:
    """Environment variables with which the process finds gptx even if gptx is not installed, and uses one thread."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


class _FollowedRuns:
    """The runs that this process follows. Counts how often in a row their store did not answer."""

    def __init__(
        self, run_dirs: Sequence[Path], outputs: Path, uri: str, experiment: str, weights: bool, sweep: Path | None
    ) -> None:
        self._sweep_dir = sweep
        self._sweep: SweepReplay | None = None
        self._run_dirs, self._outputs, self._uri = run_dirs, outputs, uri
        self._experiment, self._weights = experiment, weights
        self._replays: list[Replay] = []
        self._failures = 0
        self._make: Callable[[Path], Replay]

    def push(self) -> bool:
        """Send new records. Return whether all records have arrived; after an error the next call tries again."""
        arrived = True
        try:
            if not self._replays:
                self._open()
        except Exception as error:
            return self._failed(error)
        for i, replay in enumerate(self._replays):
            if not (replay.run_dir / journal.NAME).exists():
                continue  # a run of a sweep that has not started yet
            try:
                if replay.replaced():  # replaced by force=true
                    replay = self._replays[i] = self._make(replay.run_dir)
                replay.push()
            except Exception as error:
                arrived = self._failed(error)
        try:
            if self._sweep:
                self._sweep.push()
        except Exception as error:
            arrived = self._failed(error)
        self._failures = 0 if arrived else self._failures
        return arrived

    def add(self, run_dirs: Iterable[Path]) -> None:
        """Follow more runs."""
        new = [run_dir for run_dir in run_dirs if run_dir not in self._run_dirs]
        self._run_dirs = [*self._run_dirs, *new]
        if self._replays:
            self._replays += map(self._make, new)

    def _open(self) -> None:
        from gptx.tracking.mlflow_connection import Store
        from gptx.tracking.mlflow_writer import Replay
        from gptx.tracking.sweep_writer import SweepReplay

        store = Store(self._outputs, self._uri)
        self._make = partial(Replay, store, self._outputs, experiment=self._experiment, weights=self._weights)
        self._replays = [self._make(run_dir) for run_dir in self._run_dirs]
        if self._sweep_dir:
            self._sweep = SweepReplay(store, self._outputs, self._sweep_dir, self._experiment)

    def _failed(self, error: Exception) -> bool:
        if not self._failures:  # only the first failure of a series is printed
            echo(f"{time.strftime('%F %T')} retrying after: {one_line(error)}", file=sys.stderr)
        self._failures += 1
        return False

    def pause(self) -> float:
        """Seconds until the next push."""
        return min(_POLL * 2.0 ** min(self._failures, 10), _MAX_PAUSE)

    def writable(self) -> bool:
        """Whether the disk has space left: without it, another attempt would fail as well."""
        return not no_space(self._outputs)

    def ended(self) -> bool:
        """Whether none of the started runs had the status "running" at the last push."""
        started = [replay for replay in self._replays if (replay.run_dir / journal.NAME).exists()]
        return all(replay.status != "running" for replay in started)


def follow(runs: _FollowedRuns, wait: float, pipe: IO[bytes]) -> int:
    """Push the journals every two seconds until the pipe closes; then try for ``wait`` seconds more.

    The pauses grow while the store does not answer.

    Returns:
        0 if everything has arrived, else 1.
    """
    arrived = runs.push()
    while not _pipe_closed(pipe, runs):
        arrived = runs.push()
    ended = time.monotonic()
    arrived = runs.push()
    while not (arrived and runs.ended()):
        # A run that is still "running" is ending right now, or another process has resumed it and follows it.
        if time.monotonic() > ended + (min(wait, _LOCK_DELAY) if arrived else wait) or not (arrived or runs.writable()):
            break
        time.sleep(_POLL / 4)
        arrived = runs.push()
    return 0 if arrived else 1


def _pipe_closed(pipe: IO[bytes], runs: _FollowedRuns) -> bool:
    """Wait until the next push is due. Add the runs whose folders arrive through the pipe to ``runs``. Return whether
    the pipe is closed."""
    ready, _, _ = select.select([pipe], [], [], runs.pause())
    data = os.read(pipe.fileno(), 65536) if ready else b""
    runs.add(map(Path, os.fsdecode(data).splitlines()))
    return bool(ready) and not data


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gptx.tracking.follower",
        description="Write runs to MLflow until stdin is closed. `gptx run` starts this process; to do it by hand use "
        "`gptx sync`.",
    )
    parser.add_argument("run_dirs", nargs="*", type=Path, metavar="RUN_DIR")
    parser.add_argument("--outputs", type=Path, required=True, help="the folder that holds the studies")
    parser.add_argument("--uri", default="", help="MLflow server or database; empty: the store under OUTPUTS")
    parser.add_argument("--experiment", default="", help="name of the experiment; empty: the run's study")
    parser.add_argument("--weights", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--sweep", type=Path, help="the folder of the sweep to which the runs belong")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to keep trying after stdin is closed")
    args = parser.parse_args()
    os.nice(10)
    for number in (*STOP_SIGNALS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a cluster signals all processes of a job
    runs = _FollowedRuns(args.run_dirs, args.outputs, args.uri, args.experiment, args.weights, args.sweep)
    return follow(runs, args.wait, sys.stdin.buffer)


if __name__ == "__main__":
    sys.exit(main())
