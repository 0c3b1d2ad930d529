"""The cost of attention with each kernel, forward and backward, by context, window and dtype. The constants of
`gptx.kernel.predicted_cost` come from this table.

On a CPU the table shows CPU milliseconds of one thread, which other load on the machine disturbs least; on a GPU, wall
time. Each time is the shortest of some rounds, for --tokens tokens (or one row, if it is longer). The mask is not
included: a model creates it once per forward for all layers. Kernels that do not support a case, or that need more than
--memory, are left out.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.report import machine_facts, machine_text, terminal_table, write_json
from gptx.cli import Parser, exit_code
from gptx.errors import GptxError
from gptx.output_files import check_output

KERNELS = ("reference", "sdpa", "banded", "flex", "flash")
HEADS = {"4x32": (4, 32), "6x64": (6, 64), "16x64": (16, 64)}
EXAMPLES = """examples:
  python -m benchmarks.kernels                          the table behind gptx/kernel/predicted_cost.py
  python -m benchmarks.kernels --fit                    and the fitted constants
  python -m benchmarks.kernels --device cuda            longer contexts and one wide window
  python -m benchmarks.kernels --context 512 1024 --dtype bf16 --window 256
"""


@dataclass(frozen=True)
class Cell:
    """One row of the table. ``ms``: by kernel, without the unsupported ones; ``auto``: the choice of kernel=auto."""

    dtype: str
    heads: str
    window: int
    bias: bool
    context: int
    ms: dict[str, float]
    auto: str

    @property
    def loss(self) -> float | None:
        """Cost of the kernel that auto chooses / cost of the fastest kernel - 1. None: that kernel was not measured."""
        return self.ms[self.auto] / min(self.ms.values()) - 1 if self.auto in self.ms else None

    def cells(self, kernels: list[str]) -> tuple[str, ...]:
        window, loss = str(self.window or "full"), self.loss
        case = self.dtype, self.heads, window, "alibi" if self.bias else "", f"{self.context:,}"
        timed = (f"{self.ms[kernel]:.2f}" if kernel in self.ms else "" for kernel in kernels)
        return *case, *timed, self.auto, "" if loss is None else f"{loss:+.0%}"


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.kernels", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="(default auto)")
    parser.add_argument("--context", nargs="+", type=int, metavar="T", help="(default 64..8192, on cuda 1024..16384)")
    parser.add_argument(
        "--window",
        nargs="+",
        type=int,
        metavar="SIZE",
        help="tokens; 0: full attention (default 0 32 256; cuda 0 1024)",
    )
    parser.add_argument("--dtype", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"], help="(default both)")
    parser.add_argument("--heads", nargs="+", choices=HEADS, help="(default 4x32 6x64, on cuda 16x64)")
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, default=list(KERNELS), help="(default all)")
    parser.add_argument(
        "--tokens", type=int, default=2048, help="smallest number of tokens in a batch (default %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="number of measurements, of which the fastest is shown (default %(default)s)",
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=4.0,
        metavar="GB",
        help="limit on the memory for attention weights (default %(default)s)",
    )
    parser.add_argument("--fit", action="store_true", help="also print the constants for gptx/kernel/predicted_cost.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements to this file")
    return parser


def _bench(args: argparse.Namespace) -> None:
    if args.rounds < 1 or args.tokens < 1 or min(args.context or [1]) < 1 or min(args.window or [0]) < 0:
        raise GptxError(
            f"--rounds {args.rounds} --tokens {args.tokens}: expected at least 1, contexts too; windows 0 or more"
        )
    check_output("--json", args.json)
    import torch

    from gptx.hardware.cpu import keep_freed_memory
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
    _show(cells, f"{machine_text(device)}, best of {args.rounds}")
    write_json(args.json, machine_facts(device) | {"cells": [asdict(cell) for cell in cells]})
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
    import torch

    from benchmarks.attention import best

    if device.type == "cuda":  # flex compiles for every case; after eight of them torch would compile no more
        torch.compiler.reset()
    case = _case(row, args, device)
    fits = [kernel for kernel in args.kernel if case.weights(kernel) < args.memory * 1e9 and case.supports(kernel)]
    return Cell(*row, {kernel: best(case, kernel, args.rounds) for kernel in fits}, case.chosen())


def _show(cells: list[Cell], conditions: str) -> None:
    losses = [cell.loss for cell in cells if cell.loss is not None]
    good = sum(loss <= 0.15 for loss in losses)
    caption = (
        f"milliseconds, forward and backward: {conditions}\n"
        f"kernel=auto within 15 % of the best: {good} of {len(losses)}"
    )
    timed = [kernel for kernel in KERNELS if any(kernel in cell.ms for cell in cells)]
    head = ("dtype", "heads", "window", "bias", "context", *timed, "auto takes", "loss")
    terminal_table(head, [cell.cells(timed) for cell in cells], left=4, title="Attention kernels", caption=caption)


def _fit(cells: list[Cell], args: argparse.Namespace, device: Any) -> None:
    """Print the constants with the smallest relative error."""
    import torch

    points: dict[tuple[str, str], list[list[float]]] = {}
    for cell in cells:
        case = _case((cell.dtype, cell.heads, cell.window, cell.bias, cell.context), args, device)
        for kernel, ms in cell.ms.items():
            name, parts = case.counted(kernel)
            points.setdefault((cell.dtype, name), []).append([part / ms for part in parts])
    for (dtype, name), rows in sorted(points.items()):
        parts = torch.tensor(rows, dtype=torch.double)  # (cells, 3): share of the time per 1 ns of a constant
        constants = torch.linalg.lstsq(parts, torch.ones(len(rows), 1, dtype=torch.double)).solution
        error = (parts @ constants - 1).abs().median().item()
        print(f'{dtype} "{name}": Cost({", ".join(f"{c:.3f}" for c in constants[:, 0].tolist())}),  # +-{error:.0%}')


if __name__ == "__main__":
    sys.exit(main())
