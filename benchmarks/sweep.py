"""Runs per hour of one sweep, and of a shell loop that starts the same runs one after another.

Both train the same grid from the same token files, in separate folders. The sweep uses its defaults (one run per core,
one thread per run); the loop gives each run all cores. Runs of one step measure what a run costs besides its steps.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import terminal_table, write_json
from gptx.cli import Parser, exit_code
from gptx.errors import RunFailed
from gptx.hardware.cpu import cores
from gptx.output_files import check_output

GRID = {"attention": "mha,gqa,mqa", "pos": "learned,rope", "window": "full,sliding", "seed": "0,1"}
SHORT_AXES = ("attention", "pos")  # of the grid of one-step runs
EXAMPLES = """examples:
  python -m benchmarks.sweep                     24 runs of 60 steps: about 10 minutes on 2 cores
  python -m benchmarks.sweep --steps 300         the figures of the documentation: about 25 minutes
  python -m benchmarks.sweep tracking=off        without MLflow, which each run of the loop imports
"""


@dataclass(frozen=True)
class Timing:
    """Seconds of a number of runs, one after another and in a sweep; ``*_steps``: only in training steps."""

    name: str
    runs: int
    loop: float
    sweep: float
    loop_steps: float
    sweep_steps: float

    @property
    def ratio(self) -> float:
        return self.loop / self.sweep

    @property
    def limit(self) -> float:
        """The ratio for runs with so many steps that the cost of a start is negligible."""
        return cores() * self.loop_steps / self.sweep_steps


def main(argv: Sequence[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.sweep", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of all runs, e.g. tracking=off")
    parser.add_argument("--steps", type=int, default=60, help="training steps of each run (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results to this file")
    return exit_code(lambda: _compare(parser.parse_args(argv)))


def _compare(args: argparse.Namespace) -> None:
    check_output("--json", args.json)
    long = {"trainer.max_steps": args.steps}
    short = {"trainer.max_steps": 1, "trainer.val_tokens": 128}
    with tempfile.TemporaryDirectory(prefix="gptx-") as folder:
        shared = [*args.overrides, "runtime.brief=true", f"paths.data={folder}/tokens"]
        _timed(Path(folder, "warmup"), [[*shared, *_overrides(short)]])
        grids = {"1 step": (short, {key: GRID[key] for key in SHORT_AXES}), f"{args.steps} steps": (long, GRID)}
        found = [_both(folder, name, [*shared, *_overrides(keys)], grid) for name, (keys, grid) in grids.items()]
    _show(found)
    write_json(args.json, [asdict(timing) for timing in found])


def _overrides(keys: Mapping[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in keys.items()]


def _both(folder: str, name: str, overrides: list[str], grid: dict[str, str]) -> Timing:
    runs = list(itertools.product(*([f"{key}={value}" for value in values.split(",")] for key, values in grid.items())))
    loops, sweeps = (Path(folder, f"{name} {kind}") for kind in ("loop", "sweep"))
    loop = _timed(loops, [[*overrides, *run] for run in runs])
    sweep = _timed(sweeps, [["-m", *overrides, *_overrides(grid)]])
    return Timing(name, len(runs), loop, sweep, _seconds_in_steps(loops), _seconds_in_steps(sweeps))


def _seconds_in_steps(outputs: Path) -> float:
    """Seconds that the runs of a folder spent in their steps."""
    results = [json.loads(path.read_text()) for path in outputs.glob("*/*/result.json")]
    return float(sum(result["tokens"] / result["tokens_per_s"] for result in results))


def _timed(outputs: Path, commands: list[list[str]]) -> float:
    """Wall-clock seconds of `gptx.run` with each of these arguments, one after another."""
    start = time.perf_counter()
    for arguments in commands:
        command = [sys.executable, "-m", "gptx.run", *arguments, f"paths.outputs='{outputs}'"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(f"{' '.join(command)} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - start


def _show(timings: list[Timing]) -> None:
    head = ("a run", "runs", "shell loop, s", "sweep, s", "loop / sweep", "runs per hour: loop", "sweep")
    rows = []
    for timing in timings:
        hourly = (f"{3600 * timing.runs / seconds:,.0f}" for seconds in (timing.loop, timing.sweep))
        seconds = (f"{timing.loop:.1f}", f"{timing.sweep:.1f}", f"{timing.ratio:.2f}")
        rows.append((timing.name, str(timing.runs), *seconds, *hourly))
    terminal_table(head, rows, left=1)
    first = timings[0]
    print(
        f"a run of one step: {first.loop / first.runs:.1f} s in a loop, {first.sweep / first.runs:.1f} s in a sweep; "
        f"the ratio for very long runs: {timings[-1].limit:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
