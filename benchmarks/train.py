"""Training speed: tokens/s of gptx's real training step, beside a peer's when its checkout is given.

All ways to train one shape of model take turns for some rounds, each in a process of its own, so that other load on
the machine meets them alike; shown are the median and the extremes over the rounds, and the median of each round's
ratio to the peer. Every arm trains the same model as nanoGPT (learned positions, exact GELU, no biases, no dropout),
clips to 1 and steps a fused AdamW; only "own variant" is the model that `python -m gptx.run` trains by default (rope,
tanh GELU).
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.apart import apart
from gptx.cli import Parser, check_json, exit_code
from gptx.config.overrides import options
from gptx.errors import GptxError

if TYPE_CHECKING:
    from benchmarks.arms import Turn

# name: layers, heads, width, context, vocabulary, batch
SHAPES = {
    "nano": (4, 4, 128, 64, 65, 12),
    "small": (6, 6, 384, 256, 65, 16),
    "gpt2": (12, 12, 768, 512, 50304, 4),
    "gpt2_4": (4, 12, 768, 512, 50304, 4),
}
SHOWN = ["nano", "small", "gpt2_4"]
EXAMPLES = """examples:
  python -m benchmarks.train                                 gptx alone
  python -m benchmarks.train --peer nanogpt=../nanoGPT       beside git clone https://github.com/karpathy/nanoGPT
  python -m benchmarks.train --shape nano small --all        every kernel
  python -m benchmarks.train --arm "attention=mqa ffn=relu"  any variant, as gptx.run takes it
"""
SAME_MODEL = ("pos=learned", "ffn=gelu", "ffn.tanh=false")


@dataclass(frozen=True)
class Timing:
    """Of one arm: tokens/s of each round, and its ratio to the peer's in the same round (None without a peer)."""

    shape: str
    arm: str
    n_params: int
    peak_memory_bytes: int
    tokens_per_s: list[float]
    ratios: list[float] | None

    @staticmethod
    def of(shape: str, arm: str, turns: "list[Turn]", peer: "list[Turn] | None") -> "Timing":
        speeds = [turn.tokens_per_s for turn in turns]
        ratios = [ours / their.tokens_per_s for ours, their in zip(speeds, peer, strict=True)] if peer else None
        return Timing(shape, arm, turns[0].n_params, max(turn.peak_memory_bytes for turn in turns), speeds, ratios)

    @property
    def median(self) -> float:
        return statistics.median(self.tokens_per_s)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def cells(self) -> tuple[str, ...]:
        low, high = min(self.tokens_per_s), max(self.tokens_per_s)
        ratio = f"{self.ratio:.2f}" if self.ratio else ""
        return self.arm, f"{self.median:,.0f}", f"{low:,.0f}-{high:,.0f}", f"{self.peak_memory_bytes / 1e6:,.0f}", ratio


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.train", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--peer", type=_peer, metavar="nanogpt=PATH", help="also time nanoGPT's checkout")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=SHOWN, help="which sizes (default: all but gpt2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each arm gets (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed in a turn, at least (default %(default)s)")
    parser.add_argument("--all", action="store_true", help="also gptx with each kernel")
    parser.add_argument("--arm", action="append", default=[], metavar="OVERRIDES", help="one more arm: gptx with these")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="(default auto)")
    parser.add_argument("--markdown", action="store_true", help="print a markdown table, for a README")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's figure")
    return parser


def _peer(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if name != "nanogpt" or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not nanogpt=PATH, the only peer known")
    if not (Path(path).expanduser() / "model.py").is_file():
        raise argparse.ArgumentTypeError(
            f"there is no model.py in {path}: give a checkout (git clone https://github.com/karpathy/nanoGPT)"
        )
    return name, Path(path).expanduser()


def _bench(args: argparse.Namespace) -> None:
    if args.rounds < 1 or args.seconds < 0:
        raise GptxError(f"--rounds {args.rounds} --seconds {args.seconds:g}: expected at least 1 round and 0 seconds")
    check_json(args.json)
    import torch

    from gptx.hardware.description import describe_hardware
    from gptx.hardware.device import pick

    device = describe_hardware(pick(args.device))
    timings: list[Timing] = []
    with Console(stderr=True).status("") as status:
        for name in args.shape:
            with tempfile.TemporaryDirectory() as folder:
                timings += _shape(name, args, Path(folder), status.update)
    threads = f", {device.cores} threads" if device.device == "cpu" else ""
    where = f"{device.name}{threads}, torch {torch.__version__}, {args.rounds} rounds"
    print(_markdown(timings, where, args.peer)) if args.markdown else _show(timings, where, args.peer)
    if args.json:
        rows = [asdict(timing) | {"median": timing.median, "ratio": timing.ratio} for timing in timings]
        told = {"hardware": asdict(device), "torch": torch.__version__, "rounds": args.rounds, "timings": rows}
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _shape(name: str, args: argparse.Namespace, folder: Path, say: Callable[[str], Any]) -> list[Timing]:
    """Let the arms of one shape take turns. One lives at a time: large models need not fit in memory side by side, and
    what one does to the allocator or to torch's settings, no other feels."""
    from benchmarks.arms import Shape, Turn, turn

    shape, arms = Shape(*SHAPES[name]), _arms(args, folder)
    turns: dict[str, list[Turn]] = {label: [] for label in arms}
    for number in range(args.rounds):
        for label in reversed(arms) if number % 2 else arms:
            say(f"{name}: round {number + 1} of {args.rounds}, {label}")
            make, *rest = arms[label]
            turns[label].append(apart(turn, make, shape, (args.device, *rest), args.seconds))
    peer = turns[args.peer[0]] if args.peer else None
    if peer:
        theirs, same = peer[0].n_params, turns["gptx"][0].n_params
        assert theirs == same, f"not the same model: {args.peer[0]} has {theirs:,} parameters, gptx {same:,}"
    return [Timing.of(name, label, found, peer) for label, found in turns.items()]


def _arms(args: argparse.Namespace, folder: Path) -> dict[str, tuple[Any, ...]]:
    """label -> what builds the arm from (shape, device, ...), and what comes after these."""
    from benchmarks.arms import PEERS, Ours

    ours: dict[str, tuple[str, ...]] = {"gptx": SAME_MODEL, "gptx fp32": (*SAME_MODEL, "precision=fp32")}
    ours |= {"gptx, own variant": ()}
    if args.all:
        kernels = options("kernel")
        named = {kernel: (*SAME_MODEL, f"kernel={kernel}") for kernel in kernels if serves(kernel, args)}
        ours |= {f"gptx kernel={kernel}": overrides for kernel, overrides in named.items()}
    ours |= {f"gptx {text}": tuple(text.split()) for text in args.arm}
    peer = {args.peer[0]: (PEERS[args.peer[0]], args.peer[1])} if args.peer else {}
    return {**peer, **{label: (Ours, overrides, folder) for label, overrides in ours.items()}}


def serves(kernel: str, args: argparse.Namespace) -> bool:
    """Whether a kernel, other than auto, computes the model that is timed on the device that is asked for."""
    import gptx

    try:
        gptx.build(gptx.compose([*SAME_MODEL, f"kernel={kernel}", f"device={args.device}"]))
    except GptxError:
        return False
    return kernel != "auto"


def _head(peer: tuple[str, Path] | None) -> tuple[str, ...]:
    return ("model", "", "tokens/s", "min-max", "peak MB", *((f"x {peer[0]}",) if peer else ()))


def _rows(timings: list[Timing], peer: tuple[str, Path] | None) -> list[tuple[str, ...]]:
    rows, last = [], ""
    for timing in timings:
        rows.append((timing.shape if timing.shape != last else "", *timing.cells[: None if peer else -1]))
        last = timing.shape
    return rows


def _legend(timings: list[Timing]) -> list[str]:
    from benchmarks.arms import Shape

    return [f"{name}: {Shape(*SHAPES[name])}" for name in dict.fromkeys(timing.shape for timing in timings)]


def _show(timings: list[Timing], where: str, peer: tuple[str, Path] | None) -> None:
    caption = "\n".join([*_legend(timings), where])
    table = Table(*_head(peer), title="Training speed", caption=caption, caption_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in _rows(timings, peer):
        if row[0] and table.rows:
            table.add_section()
        table.add_row(*row)
    Console(highlight=False).print(table)


def _markdown(timings: list[Timing], where: str, peer: tuple[str, Path] | None) -> str:
    head = _head(peer)
    lines = [head, ("---", "---", *("---:" for _ in head[2:])), *_rows(timings, peer)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{'; '.join(_legend(timings))}. Medians of interleaved turns: {where}."


if __name__ == "__main__":
    sys.exit(main())
