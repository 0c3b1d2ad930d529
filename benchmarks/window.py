"""A sliding window beside the whole past: time and memory of a token, forward and backward, as the context grows.

Timed is attention of one layer through gptx's own kernels, on all cores, with equally many tokens in every cell: fewer
rows where they are longer. Cells take turns for some rounds, each in a process of its own: shown are the median and the
extremes over the rounds. Memory is what the process (on CUDA: torch) held at most, beyond what it held before the first
step, mask included.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.apart import apart
from gptx.cli import Parser, check_json, exit_code
from gptx.errors import GptxError

HEADS, DIM = 6, 64
EXAMPLES = """examples:
  python -m benchmarks.window                          contexts 512 to 16384, a window of 256
  python -m benchmarks.window --window 1024 --dtype fp32
  python -m benchmarks.window --longest 4096 --rounds 1 --json window.json
"""


@dataclass(frozen=True)
class Cell:
    """Of one context of one arm: microseconds a token in each round, and bytes a token in each."""

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
    parser.add_argument("--window", type=int, default=256, metavar="SIZE", help="tokens seen (default %(default)s)")
    parser.add_argument("--longest", type=int, default=16384, metavar="T", help="last context (default %(default)s)")
    parser.add_argument(
        "--dense", type=int, default=4096, metavar="T", help="last with a (T, T) mask; 0: none (default %(default)s)"
    )
    parser.add_argument("--tokens", type=int, default=16384, help="in every cell, at least (default %(default)s)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"], help="(default auto)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="(default auto)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each cell gets (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="timed in a turn, at least (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's figure")
    return parser


def _bench(args: argparse.Namespace) -> None:
    if min(args.rounds, args.window, args.tokens) < 1 or args.longest < 512 or args.seconds < 0:
        raise GptxError(
            f"--rounds {args.rounds} --window {args.window} --tokens {args.tokens} --longest {args.longest} "
            f"--seconds {args.seconds:g}: expected at least 1, 1, 1, 512 and 0"
        )
    check_json(args.json)
    import torch

    from gptx.hardware.description import describe_hardware
    from gptx.hardware.device import compute_dtype, pick

    device = pick(args.device)
    args.dtype = {torch.float32: "fp32", torch.bfloat16: "bf16"}[compute_dtype(args.dtype, device)]
    cells = _measure(args)
    machine = describe_hardware(device)
    threads = f", {machine.cores} threads" if device.type == "cpu" else ""
    _show(cells, f"{machine.name}{threads}, {args.dtype}, torch {torch.__version__}, {args.rounds} rounds")
    if args.json:
        told = {"hardware": asdict(machine), "torch": torch.__version__, "dtype": args.dtype}
        told |= {"cells": [asdict(cell) | {"arm": cell.arm} for cell in cells]}
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


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
                given = (HEADS, DIM, cell.context, cell.window, False, args.dtype, rows, args.device)
                us, memory = apart(turn, given, cell.kernel, args.seconds, advice=" --longest or --tokens ask for less")
                cell.us.append(us)
                cell.memory.append(memory)
    return cells


def _show(cells: list[Cell], where: str) -> None:
    caption = f"{HEADS} heads of {DIM}; {where}"
    head = ("window, kernel", "context", "us/token", "min-max", "kB/token", "time x")
    table = Table(*head, title="Attention as the context grows", caption=caption, caption_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    first: dict[str, Cell] = {}
    for cell in cells:
        new = cell.arm not in first
        if new and first:
            table.add_section()
        growth = statistics.median(cell.us) / statistics.median(first.setdefault(cell.arm, cell).us)
        table.add_row(cell.arm if new else "", *cell.row, f"{growth:.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
