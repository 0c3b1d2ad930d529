"""The side process that shows a run in MLflow while it trains. Training never waits for it or imports mlflow.

``Follower`` starts it; the pipe to its stdin is the leash: when the trainer is done or dead, however it died,
the side process reads end-of-file, replays the journal a last time, sets the run's status and goes.
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
from gptx.runs import journal
from gptx.tracking.store import one_line, store_uri

if TYPE_CHECKING:
    from gptx.tracking.replay import Replay

_POLL = 2.0  # seconds between two looks at a journal
_AWAY = 30.0  # longest pause between two tries at a store that is away
_DYING = 5.0  # how long a run's lock may outlive the leash


class Follower:
    """The trainer's end: a process that follows these runs until ``finish``."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, wait: float, hint: str) -> None:
        self._process, self._log, self._wait, self._hint = process, log, wait, hint

    @classmethod
    def start(cls, run_dirs: Sequence[Path], tracking: Mapping[str, Any], outputs: Path) -> "Follower | None":
        """Follow ``run_dirs`` below ``outputs``; None when ``tracking`` has enabled or follow false.

        ``tracking`` is the config group: enabled, uri, follow, wait (seconds), experiment, weights.
        """
        if not (tracking["enabled"] and tracking["follow"]):
            return None
        uri = str(tracking["uri"])
        command = [sys.executable, "-m", "gptx.tracking.follower", *map(str, run_dirs), "--outputs", str(outputs)]
        command += [
            "--uri",
            uri,
            "--experiment",
            str(tracking["experiment"]),
            "--wait",
            str(tracking["wait"]),
        ]
        command += ["--weights" if tracking["weights"] else "--no-weights"]
        log = outputs / ".logs" / f"tracking-{os.getpid()}{f'-{run_dirs[0].name}' if run_dirs else ''}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is meant for the trainer
            )
        again = f"python -m gptx.sync {outputs}" + (f" --uri {uri}" if uri else "")
        hint = f"MLflow at {store_uri(outputs, uri)} lacks rows (see {log}); none is lost, run: {again}"
        return cls(process, log, float(tracking["wait"]), hint)

    def add(self, run_dir: Path) -> None:
        """Follow this one, too."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: `finish` says so
            os.write(self._process.stdin.fileno(), os.fsencode(f"{run_dir}\n"))

    def finish(self) -> str | None:
        """Let it send the rest, until Ctrl-C or for ``wait`` seconds at most; a line for the user if not all came."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            with default_stop_signals():
                arrived = self._process.wait(self._wait) == 0
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more would take the hint away
            self._process.kill()  # the journal has everything: a sync sends what is missing
            self._process.wait()
            signal.signal(signal.SIGINT, before)
            arrived = False
        if arrived and not self._log.stat().st_size:
            self._log.unlink()
        return None if arrived else self._hint


def _environment() -> dict[str, str]:
    """gptx need not be installed, nor be in the working directory; and one thread is enough."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


class _Runs:
    """The runs of one side process, and how often their store did not answer."""

    def __init__(self, run_dirs: Sequence[Path], outputs: Path, uri: str, experiment: str, weights: bool) -> None:
        self._run_dirs, self._outputs, self._uri = run_dirs, outputs, uri
        self._experiment, self._weights = experiment, weights
        self._replays: list[Replay] = []
        self._failures = 0
        self._make: Callable[[Path], Replay]

    def push(self) -> bool:
        """Whether every record there is has arrived. Whatever goes wrong, the next call tries again."""
        arrived = True
        try:
            if not self._replays:
                self._open()
        except Exception as error:
            return self._failed(error)
        for i, replay in enumerate(self._replays):
            if not (replay.run_dir / journal.NAME).exists():
                continue  # of a sweep, and not begun yet
            try:
                if replay.replaced():  # by force=true, a while after we began to follow
                    replay = self._replays[i] = self._make(replay.run_dir)
                replay.push()
            except Exception as error:
                arrived = self._failed(error)
        self._failures = 0 if arrived else self._failures
        return arrived

    def add(self, run_dirs: Iterable[Path]) -> None:
        """More of them."""
        new = [run_dir for run_dir in run_dirs if run_dir not in self._run_dirs]
        self._run_dirs = [*self._run_dirs, *new]
        if self._replays:
            self._replays += map(self._make, new)

    def _open(self) -> None:
        from gptx.tracking.replay import Replay
        from gptx.tracking.store import Store

        store = Store(self._outputs, self._uri)
        self._make = partial(Replay, store, self._outputs, experiment=self._experiment, weights=self._weights)
        self._replays = [self._make(run_dir) for run_dir in self._run_dirs]

    def _failed(self, error: Exception) -> bool:
        if not self._failures:  # once for each time that it goes away
            print(f"{time.strftime('%F %T')} still trying: {one_line(error)}", file=sys.stderr, flush=True)
        self._failures += 1
        return False

    def pause(self) -> float:
        """Seconds until the next push."""
        return min(_POLL * 2.0 ** min(self._failures, 10), _AWAY)

    def over(self) -> bool:
        """Whether nobody trains them any more, as far as was pushed."""
        begun = [replay for replay in self._replays if (replay.run_dir / journal.NAME).exists()]
        return all(replay.status != "running" for replay in begun)


def follow(runs: _Runs, wait: float, leash: IO[bytes]) -> int:
    """Push the journals every two seconds until ``leash`` is at its end; then try for ``wait`` seconds.

    Returns 0 when everything has arrived, else 1. A store that is away is asked less and less often.
    """
    arrived = runs.push()
    while not _ended(leash, runs):
        arrived = runs.push()
    ended = time.monotonic()
    arrived = runs.push()
    # Running without us: the process is still dying, or another one has resumed (and follows) it.
    while time.monotonic() < ended + (min(wait, _DYING) if arrived else wait) and not (arrived and runs.over()):
        time.sleep(_POLL / 4)
        arrived = runs.push()
    return 0 if arrived else 1


def _ended(leash: IO[bytes], runs: _Runs) -> bool:
    """Wait for the next push, or for the other end of the pipe to go away. What comes through it are more runs."""
    ready, _, _ = select.select([leash], [], [], runs.pause())
    said = os.read(leash.fileno(), 65536) if ready else b""
    runs.add(map(Path, os.fsdecode(said).splitlines()))
    return bool(ready) and not said


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gptx.tracking.follower",
        description="Follow runs into MLflow until stdin ends. gptx.run starts it; by hand use gptx.sync.",
    )
    parser.add_argument("run_dirs", nargs="*", type=Path, metavar="RUN_DIR")
    parser.add_argument("--outputs", type=Path, required=True, help="the folder that holds the studies")
    parser.add_argument("--uri", default="", help="MLflow server or database; empty: the store under OUTPUTS")
    parser.add_argument("--experiment", default="", help="name of the experiment; empty: the run's study")
    parser.add_argument("--weights", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to go on after stdin has ended")
    args = parser.parse_args()
    os.nice(10)
    for number in (*STOP_SIGNALS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a cluster signals the whole job; the last rows are yet to come
    runs = _Runs(args.run_dirs, args.outputs, args.uri, args.experiment, args.weights)
    return follow(runs, args.wait, sys.stdin.buffer)


if __name__ == "__main__":
    sys.exit(main())
