"""Training speed: tokens/s of gptx's real training step, beside a peer's when its checkout is given.

All ways to train one shape of model take turns for some rounds, each in a process of its own, so that other load on
the machine meets them alike; shown are the median and the extremes over the rounds, and the median of each round's ratio to the peer. Every arm
trains the same model as nanoGPT (learned positions, exact GELU, no biases, no dropout), clips to 1 and steps a fused
AdamW; only "own variant" is the model that `python -m gptx.run` trains by default (rope, tanh GELU).
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

from gptx.config import conf_dir
from gptx.errors import GptxError

if TYPE_CHECKING:
    from benchmarks.arms import Shape

# name: layers, heads, width, context, vocabulary, batch
SHAPES = {
    "nano": (4, 4, 128, 64, 65, 12),
    "small": (6, 6, 384, 256, 65, 16),
    "gpt2": (12, 12, 768, 512, 50304, 4),
    "gpt2_4": (4, 12, 768, 512, 50304, 4),
}
EXAMPLES = """examples:
  python -m benchmarks.train                                 gptx alone, about a minute
  python -m benchmarks.train --peer nanogpt=../nanoGPT       beside git clone https://github.com/karpathy/nanoGPT
  python -m benchmarks.train --shape nano small --all        every kernel
  python -m benchmarks.train --arm "attention=mqa ffn=relu"  any variant, as gptx.run takes it
"""
SAME_MODEL = ("pos=learned", "ffn=gelu", "ffn.tanh=false")
SLICE = 1.0  # seconds that an arm's turn takes at least


@dataclass(frozen=True)
class Timing:
    """Of one arm: tokens/s of each round, and its ratio to the peer's in the same round (None without a peer)."""

    shape: str
    arm: str
    n_params: int
    peak_memory_bytes: int
    tokens_per_s: list[float]
    ratios: list[float] | None

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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GptxError(f"{message} (python -m benchmarks.train --help lists the options)")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line on stderr."""
    try:
        _bench(_parser().parse_args(argv))
    except GptxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("python -m benchmarks.train", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--peer", type=_peer, metavar="nanogpt=PATH", help="also time nanoGPT's checkout")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES), help="which sizes (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each arm gets (default %(default)s)")
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
    if args.rounds < 1:
        raise GptxError(f"--rounds {args.rounds}: expected at least 1")
    if args.json and not args.json.parent.is_dir():
        raise GptxError(f"--json {args.json}: there is no folder {args.json.parent}")
    import torch

    from benchmarks.arms import Shape
    from gptx.device import hardware, pick

    device = hardware(pick(args.device))

    timings: list[Timing] = []
    with Console(stderr=True).status("") as status:
        for name in args.shape:
            shape = Shape(*SHAPES[name])
            with tempfile.TemporaryDirectory() as folder:
                timings += _shape(name, shape, args, Path(folder), status.update)
    threads = f", {device['cores']} threads" if device["device"] == "cpu" else ""
    where = f"{device['name']}{threads}, torch {torch.__version__}, {args.rounds} rounds"
    print(_markdown(timings, where, args.peer)) if args.markdown else _show(timings, where, args.peer)
    if args.json:
        rows = [asdict(timing) | {"median": timing.median, "ratio": timing.ratio} for timing in timings]
        told = {"hardware": device, "torch": torch.__version__, "rounds": args.rounds, "timings": rows}
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _shape(
    name: str, shape: "Shape", args: argparse.Namespace, folder: Path, say: Callable[[str], Any]
) -> list[Timing]:
    """Build the arms of one shape and let them take turns."""
    from benchmarks.arms import Worker

    arms: dict[str, Worker] = {}
    counts = {}
    for label, make in _arms(args, folder).items():
        say(f"{name}: warming up {label}")
        arms[label] = Worker(make[0], shape, args.device, *make[1:])
        arms[label].seconds(1)  # allocates, compiles
        counts[label] = max(1, round(SLICE / arms[label].seconds(1)))
    rates: dict[str, list[float]] = {label: [] for label in arms}
    for turn in range(args.rounds):
        for label in reversed(arms) if turn % 2 else arms:
            say(f"{name}: round {turn + 1} of {args.rounds}, {label}")
            rates[label].append(counts[label] * shape.tokens / arms[label].seconds(counts[label]))
    peer = rates[args.peer[0]] if args.peer else None
    return [
        Timing(name, label, arm.n_params, arm.close(), rates[label], _ratios(rates[label], peer))
        for label, arm in arms.items()
    ]


def _ratios(rate: list[float], peer: list[float] | None) -> list[float] | None:
    return [ours / theirs for ours, theirs in zip(rate, peer, strict=True)] if peer else None


def _arms(args: argparse.Namespace, folder: Path) -> dict[str, tuple[Any, ...]]:
    """label -> what builds the arm from (shape, device, ...), and what comes after these."""
    from benchmarks.arms import PEERS, Ours

    ours: dict[str, tuple[str, ...]] = {"gptx": SAME_MODEL, "gptx fp32": (*SAME_MODEL, "precision=fp32")}
    ours |= {"gptx, own variant": ()}
    if args.all:
        kernels = sorted(path.stem for path in (conf_dir() / "kernel").glob("*.yaml"))
        ours |= {f"gptx kernel={kernel}": (*SAME_MODEL, f"kernel={kernel}") for kernel in kernels if kernel != "auto"}
    ours |= {f"gptx {text}": tuple(text.split()) for text in args.arm}
    peer = {args.peer[0]: (PEERS[args.peer[0]], args.peer[1])} if args.peer else {}
    return {**peer, **{label: (Ours, overrides, folder) for label, overrides in ours.items()}}


def _head(peer: tuple[str, Path] | None) -> tuple[str, ...]:
    return ("model and batch", "", "tokens/s", "min-max", "peak MB", *((f"x {peer[0]}",) if peer else ()))


def _rows(timings: list[Timing], peer: tuple[str, Path] | None) -> list[tuple[str, ...]]:
    from benchmarks.arms import Shape

    rows, last = [], ""
    for timing in timings:
        first = f"{timing.shape}: {Shape(*SHAPES[timing.shape])}" if timing.shape != last else ""
        rows.append((first, *timing.cells[: None if peer else -1]))
        last = timing.shape
    return rows


def _show(timings: list[Timing], where: str, peer: tuple[str, Path] | None) -> None:
    table = Table(*_head(peer), title="Training speed", caption=where)
    for column in table.columns[1:]:
        column.no_wrap = True
        column.justify = "right" if column is not table.columns[1] else "left"
    for row in _rows(timings, peer):
        if row[0] and table.rows:
            table.add_section()
        table.add_row(*row)
    Console(highlight=False).print(table)


def _markdown(timings: list[Timing], where: str, peer: tuple[str, Path] | None) -> str:
    head = _head(peer)
    lines = [head, ("---", "---", *("---:" for _ in head[2:])), *_rows(timings, peer)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{where}, medians of interleaved turns."


if __name__ == "__main__":
    sys.exit(main())
