"""A sliding window and full attention: time and memory per token, forward and backward, as the context grows.

The benchmark measures attention of one layer with gptx's kernels, on all cores, with the same number of tokens in every
case. Each round times every case once, in a separate process; the table shows the median and the range over the
rounds. Memory is the peak of the process (on CUDA: of torch) less its memory before the first step; it includes the
mask.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.isolated import run_isolated
from benchmarks.report import machine_facts, machine_text, terminal_table, write_json
from gptx.cli import Parser, exit_code
from gptx.errors import GptxError
from gptx.output_files import check_output

HEADS, DIM = 6, 64
EXAMPLES = """examples:
  python -m benchmarks.window                          contexts 512 to 16384, a window of 256
  python -m benchmarks.window --window 1024 --dtype fp32
  python -m benchmarks.window --longest 4096 --rounds 1 --json window.json
"""


@dataclass(frozen=True)
class Cell:
    """One context of one arm: microseconds per token and bytes per token in each round."""

    window: int
    kernel: str
    context: int
    us: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def arm(self) -> str:
        return f"{f'sliding {self.window}' if self.window else 'full'}, {self.kernel}"

    @property
    def row(self) -> tuple[str, ...]:
        spread = f"{min(self.us):.2f}-{max(self.us):.2f}"
        return f"{self.context:,}", f"{statistics.median(self.us):.2f}", spread, f"{max(self.memory) / 1e3:.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.window", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--window", type=int, default=256, metavar="SIZE", help="visible tokens (default %(default)s)")
    parser.add_argument("--longest", type=int, default=16384, metavar="T", help="longest context (default %(default)s)")
    parser.add_argument(
        "--dense",
        type=int,
        default=4096,
        metavar="T",
        help="longest context with a (T, T) mask; 0: none (default %(default)s)",
    )
    parser.add_argument("--tokens", type=int, default=16384, help="minimum tokens in a batch (default %(default)s)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"], help="(default auto)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="(default auto)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is timed (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="minimum time in s (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results of every round to this file")
    return parser


def _bench(args: argparse.Namespace) -> None:
    if min(args.rounds, args.window, args.tokens) < 1 or args.longest < 512 or args.seconds < 0:
        raise GptxError(
            f"--rounds {args.rounds} --window {args.window} --tokens {args.tokens} --longest {args.longest} "
            f"--seconds {args.seconds:g}: expected at least 1, 1, 1, 512 and 0"
        )
    check_output("--json", args.json)
    import torch

    from gptx.hardware.device import compute_dtype, pick

    device = pick(args.device)
    args.dtype = {torch.float32: "fp32", torch.bfloat16: "bf16"}[compute_dtype(args.dtype, device)]
    cells = _measure(args)
    _show(cells, f"{machine_text(device)}, {args.dtype}, {args.rounds} rounds")
    rows = [asdict(cell) | {"arm": cell.arm} for cell in cells]
    write_json(args.json, machine_facts(device) | {"dtype": args.dtype, "cells": rows})


def _measure(args: argparse.Namespace) -> list[Cell]:
    from benchmarks.attention import turn

    contexts = [512 * 2**i for i in range((args.longest // 512).bit_length())]
    arms = {(args.window, "auto"): args.longest, (0, "sdpa"): args.longest, (args.window, "sdpa"): args.dense}
    cells = [Cell(*arm, context) for arm, last in arms.items() for context in contexts if context <= last]
    with Console(stderr=True).status("") as status:
        for number in range(args.rounds):
            for cell in reversed(cells) if number % 2 else cells:
                status.update(f"round {number + 1} of {args.rounds}: {cell.arm}, context {cell.context}")
                rows = max(1, args.tokens // cell.context)
                sizes = (HEADS, DIM, cell.context, cell.window, False, args.dtype, rows, args.device)
                advice = " Use a smaller --longest or --tokens"
                us, memory = run_isolated(turn, sizes, cell.kernel, args.seconds, advice=advice)
                cell.us.append(us)
                cell.memory.append(memory)
    return cells


def _show(cells: list[Cell], conditions: str) -> None:
    head = ("window, kernel", "context", "us/token", "min-max", "kB/token", "time x")
    first: dict[str, Cell] = {}
    rows = []
    for cell in cells:
        label = "" if cell.arm in first else cell.arm
        growth = statistics.median(cell.us) / statistics.median(first.setdefault(cell.arm, cell).us)
        rows.append((label, *cell.row, f"{growth:.2f}"))
    caption = f"{HEADS} heads of {DIM}; {conditions}"
    terminal_table(head, rows, left=1, title="Attention as the context grows", caption=caption)


if __name__ == "__main__":
    sys.exit(main())
