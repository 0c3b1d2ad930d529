"""Combinations an hour: one sweep against the same runs started one after another by a shell loop.

Both train the same grid into folders of their own, from the same token files; the sweep has its defaults (one run for
each core, one thread each), the loop gives each run all cores, as a person would. What a run costs besides its steps is
measured with runs of one step.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptx.cli import Parser, check_json, exit_code
from gptx.errors import RunFailed

GRID = {"attention": "mha,gqa,mqa", "pos": "learned,rope", "window": "full,sliding", "seed": "0,1"}
EXAMPLES = """examples:
  python -m benchmarks.sweep                     the README's 24 runs, 300 steps each: about 20 minutes on 2 cores
  python -m benchmarks.sweep --steps 50 tracking=off
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 where a run failed, or 2 after one line on stderr."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.sweep", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="for all runs, such as tracking=off")
    parser.add_argument("--steps", type=int, default=300, help="of each run (300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, raw")
    return exit_code(lambda: _compare(parser.parse_args(argv)))


def _compare(args: argparse.Namespace) -> None:
    check_json(args.json)
    values = [[f"{key}={value}" for value in given.split(",")] for key, given in GRID.items()]
    runs = [list(words) for words in itertools.product(*values)]
    grid = [f"{key}={value}" for key, value in GRID.items()]
    seconds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="gptx-") as folder:
        shared = [*args.words, "runtime.brief=true", f"paths.data={folder}/tokens"]
        _timed(folder, "warm", [[*shared, "trainer.max_steps=1", "trainer.val_tokens=128"]])
        for name, steps in (("1 step", 1), (f"{args.steps} steps", args.steps)):
            words = [*shared, f"trainer.max_steps={steps}", *(["trainer.val_tokens=128"] if steps == 1 else [])]
            seconds[name] = {
                "shell loop": _timed(folder, f"loop-{steps}", [[*words, *one] for one in runs]),
                "sweep": _timed(folder, f"sweep-{steps}", [["-m", *words, *grid]]),
            }
    _show(seconds, len(runs))
    if args.json:
        args.json.write_text(json.dumps({"runs": len(runs), "seconds": seconds}, indent=1))


def _timed(folder: str, name: str, commands: list[list[str]]) -> float:
    """Wall-clock seconds of the commands, one after another."""
    began = time.perf_counter()
    for words in commands:
        command = [sys.executable, "-m", "gptx.run", *words, f"paths.outputs={folder}/{name}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(f"{' '.join(command)} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - began


def _show(seconds: dict[str, dict[str, float]], runs: int) -> None:
    table = Table("", "shell loop, s", "sweep, s", "loop/sweep", "runs an hour: loop", "sweep", title=f"{runs} runs")
    for name, found in seconds.items():
        loop, sweep = found["shell loop"], found["sweep"]
        hourly = [f"{3600 * runs / took:,.0f}" for took in (loop, sweep)]
        table.add_row(name, f"{loop:.1f}", f"{sweep:.1f}", f"{loop / sweep:.2f}x", *hourly)
    console = Console(highlight=False)
    console.print(table)
    each = {way: took / runs for way, took in next(iter(seconds.values())).items()}
    console.print("a run of one step: " + ", ".join(f"{took:.1f} s ({way})" for way, took in each.items()))


if __name__ == "__main__":
    sys.exit(main())
