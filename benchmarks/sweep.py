"""Combinations an hour: one sweep against the same runs started one after another by a shell loop.

Both train the same grid into folders of their own, from the same token files; the sweep has its defaults (one run for
each core, one thread each), the loop gives each run all cores, as a person would. What a run costs besides its steps is
measured with some runs of one step.
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

from rich.console import Console
from rich.table import Table

from gptx.cli import Parser, check_json, exit_code
from gptx.errors import RunFailed
from gptx.hardware.cpu import cores

GRID = {"attention": "mha,gqa,mqa", "pos": "learned,rope", "window": "full,sliding", "seed": "0,1"}
SOME = ("attention", "pos")  # for what a run of one step takes
EXAMPLES = """examples:
  python -m benchmarks.sweep                     24 runs of 60 steps: some 10 minutes on 2 cores
  python -m benchmarks.sweep --steps 300         those that the README draws: some 25 minutes
  python -m benchmarks.sweep tracking=off        without MLflow, which each run of the loop has to load
"""


@dataclass(frozen=True)
class Timing:
    """Seconds that so many runs took, one after another and in a sweep; and those of all their steps."""

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
        """What the ratio comes to where runs have ever more steps."""
        return cores() * self.loop_steps / self.sweep_steps


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 where a run failed, or 2 after one line on stderr."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.sweep", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="for all runs, such as tracking=off")
    parser.add_argument("--steps", type=int, default=60, help="of each run (60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, raw")
    return exit_code(lambda: _compare(parser.parse_args(argv)))


def _compare(args: argparse.Namespace) -> None:
    check_json(args.json)
    long = {"trainer.max_steps": args.steps}
    short = {"trainer.max_steps": 1, "trainer.val_tokens": 128}
    with tempfile.TemporaryDirectory(prefix="gptx-") as folder:
        shared = [*args.words, "runtime.brief=true", f"paths.data={folder}/tokens"]
        _timed(Path(folder, "warm"), [[*shared, *_words(short)]])
        ways = {"1 step": (short, {key: GRID[key] for key in SOME}), f"{args.steps} steps": (long, GRID)}
        found = [_both(folder, name, [*shared, *_words(words)], grid) for name, (words, grid) in ways.items()]
    _show(found)
    if args.json:
        args.json.write_text(json.dumps([asdict(timing) for timing in found], indent=1))


def _words(keys: Mapping[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in keys.items()]


def _both(folder: str, name: str, words: list[str], grid: dict[str, str]) -> Timing:
    runs = list(itertools.product(*([f"{key}={value}" for value in given.split(",")] for key, given in grid.items())))
    loops, sweeps = (Path(folder, f"{name} {way}") for way in ("loop", "sweep"))
    loop = _timed(loops, [[*words, *one] for one in runs])
    sweep = _timed(sweeps, [["-m", *words, *_words(grid)]])
    return Timing(name, len(runs), loop, sweep, _in_steps(loops), _in_steps(sweeps))


def _in_steps(outputs: Path) -> float:
    """Seconds that the runs which lie there spent in their steps."""
    results = [json.loads(path.read_text()) for path in outputs.glob("*/*/result.json")]
    return sum(result["tokens"] / result["tokens_per_s"] for result in results)


def _timed(outputs: Path, commands: list[list[str]]) -> float:
    """Wall-clock seconds of the commands, one after another."""
    began = time.perf_counter()
    for words in commands:
        command = [sys.executable, "-m", "gptx.run", *words, f"paths.outputs='{outputs}'"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(f"{' '.join(command)} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - began


def _show(found: list[Timing]) -> None:
    table = Table("a run", "runs", "shell loop, s", "sweep, s", "loop / sweep", "runs an hour: loop", "sweep")
    for one in found:
        hourly = (f"{3600 * one.runs / seconds:,.0f}" for seconds in (one.loop, one.sweep))
        table.add_row(one.name, str(one.runs), f"{one.loop:.1f}", f"{one.sweep:.1f}", f"{one.ratio:.2f}", *hourly)
    console = Console(highlight=False)
    console.print(table)
    first = found[0]
    console.print(
        f"a run of one step: {first.loop / first.runs:.1f} s in a loop, {first.sweep / first.runs:.1f} s in a sweep; "
        f"their steps alone make {found[-1].limit:.2f} times, which ever longer runs come to"
    )


if __name__ == "__main__":
    sys.exit(main())
