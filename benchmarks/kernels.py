"""What attention costs in each kernel: forward and backward, over contexts, windows and types. `gptx.kernel.cost` is
made from this table.

On a CPU shown are CPU milliseconds of one thread, which other load on the machine disturbs least; on a GPU, wall time.
Each figure is the best of some rounds, for --tokens tokens (or one row, where that is longer), with the mask made
before: a model makes it once a forward for all its layers. A kernel that refuses is left out, and one that would hold
more than --memory.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from gptx.cli import Parser, check_json, exit_code
from gptx.errors import GptxError

KERNELS = ("reference", "sdpa", "banded", "flex", "flash")
HEADS = {"4x32": (4, 32), "6x64": (6, 64), "16x64": (16, 64)}
EXAMPLES = """examples:
  python -m benchmarks.kernels                          what gptx/kernel/cost.py is made from
  python -m benchmarks.kernels --fit                    and its constants, fitted
  python -m benchmarks.kernels --device cuda            longer rows and one wide window
  python -m benchmarks.kernels --context 512 1024 --dtype bf16 --window 256
"""


@dataclass(frozen=True)
class Cell:
    """One row of the table; ``ms`` holds the kernels that serve it, ``auto`` is the one that kernel=auto takes."""

    dtype: str
    heads: str
    window: int
    bias: bool
    context: int
    ms: dict[str, float]
    auto: str

    @property
    def loss(self) -> float | None:
        """What auto's choice costs more than the best one: 0.1 is a tenth. None: that was not measured."""
        return self.ms[self.auto] / min(self.ms.values()) - 1 if self.auto in self.ms else None

    def cells(self, kernels: list[str]) -> tuple[str, ...]:
        sees, loss = str(self.window or "full"), self.loss
        what = self.dtype, self.heads, sees, "alibi" if self.bias else "", f"{self.context:,}"
        timed = (f"{self.ms[kernel]:.2f}" if kernel in self.ms else "" for kernel in kernels)
        return *what, *timed, self.auto, "" if loss is None else f"{loss:+.0%}"


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.kernels", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="(default auto)")
    parser.add_argument("--context", nargs="+", type=int, metavar="T", help="(default 64..8192, on cuda 1024..16384)")
    parser.add_argument("--window", nargs="+", type=int, metavar="SIZE", help="0: full (default 0 32 256; cuda 0 1024)")
    parser.add_argument("--dtype", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"], help="(default both)")
    parser.add_argument("--heads", nargs="+", choices=HEADS, help="(default 4x32 6x64, on cuda 16x64)")
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, default=list(KERNELS), help="(default all)")
    parser.add_argument("--tokens", type=int, default=2048, help="in a batch, at least (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the best counts (default %(default)s)")
    parser.add_argument("--memory", type=float, default=4.0, metavar="GB", help="for weights (default %(default)s)")
    parser.add_argument("--fit", action="store_true", help="also print the constants for gptx/kernel/cost.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    return parser


def _bench(args: argparse.Namespace) -> None:
    if args.rounds < 1 or args.tokens < 1 or min(args.context or [1]) < 1 or min(args.window or [0]) < 0:
        raise GptxError(
            f"--rounds {args.rounds} --tokens {args.tokens}: expected at least 1, contexts too; windows 0 or more"
        )
    check_json(args.json)
    import torch

    from gptx.hardware.cpu import keep_freed_memory
    from gptx.hardware.description import describe_hardware
    from gptx.hardware.device import pick

    device = pick(args.device)
    gpu = device.type == "cuda"
    if not gpu:
        keep_freed_memory()
        torch.set_num_threads(1)
    args.context = args.context or [2**i for i in (range(10, 15) if gpu else range(6, 14))]
    args.window = args.window or ([0, 1024] if gpu else [0, 32, 256])
    args.heads = args.heads or (["16x64"] if gpu else ["4x32", "6x64"])
    rows = list(_rows(args))
    cells = [_cell(row, args, device) for row in track(rows, "measuring", console=Console(stderr=True), transient=True)]
    cells = [cell for cell in cells if cell.ms]
    machine = describe_hardware(device)
    _show(cells, f"{machine.name}, torch {torch.__version__}, best of {args.rounds}")
    if args.json:
        told = {"hardware": asdict(machine), "torch": torch.__version__, "cells": [asdict(cell) for cell in cells]}
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if args.fit:
        _fit(cells, args, device)


def _rows(args: argparse.Namespace) -> Iterator[tuple[str, str, int, bool, int]]:
    for dtype in args.dtype:
        for heads in args.heads:
            for window in args.window:
                for bias in (False, True):
                    for context in args.context:
                        yield dtype, heads, window, bias, context


def _case(row: tuple[str, str, int, bool, int], args: argparse.Namespace, device: Any) -> Any:
    from benchmarks.attention import Case

    dtype, heads, window, bias, context = row
    return Case(*HEADS[heads], context, window, bias, dtype, max(1, args.tokens // context), device)


def _cell(row: tuple[str, str, int, bool, int], args: argparse.Namespace, device: Any) -> Cell:
    from benchmarks.attention import best

    case = _case(row, args, device)
    fits = [kernel for kernel in args.kernel if case.weights(kernel) < args.memory * 1e9 and case.serves(kernel)]
    return Cell(*row, {kernel: best(case, kernel, args.rounds) for kernel in fits}, case.chosen())


def _show(cells: list[Cell], where: str) -> None:
    known = [cell.loss for cell in cells if cell.loss is not None]
    good = sum(loss <= 0.15 for loss in known)
    caption = (
        f"milliseconds, forward and backward: {where}\nkernel=auto within 15 % of the best: {good} of {len(known)}"
    )
    timed = [kernel for kernel in KERNELS if any(kernel in cell.ms for cell in cells)]
    head = ("type", "heads", "window", "bias", "context", *timed, "auto takes", "loss")
    table = Table(*head, title="Attention kernels", caption=caption, caption_justify="left")
    for column in table.columns[4:-2]:
        column.justify = "right"
    last = cells[0] if cells else None
    for cell in cells:
        if last and cell.context < last.context:
            table.add_section()
        last = cell
        table.add_row(*cell.cells(timed))
    Console(highlight=False, width=None if sys.stdout.isatty() else 100).print(table)


def _fit(cells: list[Cell], args: argparse.Namespace, device: Any) -> None:
    """Print the constants that predict the cells best, in relative terms."""
    import torch

    points: dict[tuple[str, str], list[list[float]]] = {}
    for cell in cells:
        case = _case((cell.dtype, cell.heads, cell.window, cell.bias, cell.context), args, device)
        for kernel, ms in cell.ms.items():
            name, parts = case.counted(kernel)
            points.setdefault((cell.dtype, name), []).append([part / ms for part in parts])
    for (dtype, name), rows in sorted(points.items()):
        parts = torch.tensor(rows, dtype=torch.double)  # (cells, 3): of each, what one nanosecond would explain
        constants = torch.linalg.lstsq(parts, torch.ones(len(rows), 1, dtype=torch.double)).solution
        error = (parts @ constants - 1).abs().median().item()
        print(f'{dtype} "{name}": Cost({", ".join(f"{c:.3f}" for c in constants[:, 0].tolist())}),  # +-{error:.0%}')


if __name__ == "__main__":
    sys.exit(main())
