"""Training speed: tokens/s of gptx's training step, and of nanoGPT's if a checkout is given.

Each round times every arm of a model size once, each in a separate process, so that other load on the machine affects
them equally. The table shows the median and the range over the rounds, and the median of each round's ratio to
the peer. Every arm trains the same model as nanoGPT (learned positions, exact GELU, no biases, no dropout), clips to 1
and uses a fused AdamW; only "default variant" is the model that `gptx run` trains by default (rope, tanh GELU).
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.isolated import run_isolated
from benchmarks.report import machine_facts, machine_text, markdown_table, terminal_table, write_json
from gptx.cli import Parser, exit_code
from gptx.config.overrides import options
from gptx.errors import GptxError
from gptx.output_files import check_output

if TYPE_CHECKING:
    from benchmarks.training_arms import Turn

# name: layers, heads, d_model, context, vocabulary, batch size
SHAPES = {
    "nano": (4, 4, 128, 64, 65, 12),
    "small": (6, 6, 384, 256, 65, 16),
    "gpt2": (12, 12, 768, 512, 50304, 4),
    "gpt2_4": (4, 12, 768, 512, 50304, 4),
}
DEFAULT = ["nano", "small", "gpt2_4"]
EXAMPLES = """examples:
  python -m benchmarks.train                                 gptx only
  python -m benchmarks.train --peer nanogpt=../nanoGPT       and a checkout of https://github.com/karpathy/nanoGPT
  python -m benchmarks.train --shape nano small --all        every kernel
  python -m benchmarks.train --arm "attention=mqa ffn=relu"  any variant, with overrides of gptx run
"""
SAME_MODEL = ("pos=learned", "ffn=gelu", "ffn.tanh=false")


@dataclass(frozen=True)
class Timing:
    """Tokens/s of an arm by round; ``ratios``: divided by those of the peer (nanoGPT) in that round, or None."""

    shape: str
    arm: str
    n_params: int
    peak_memory_bytes: int
    tokens_per_s: list[float]
    ratios: list[float] | None

    @staticmethod
    def of(shape: str, arm: str, turns: "list[Turn]", peer: "list[Turn] | None") -> "Timing":
        speeds = [turn.tokens_per_s for turn in turns]
        ratios = [speed / other.tokens_per_s for speed, other in zip(speeds, peer, strict=True)] if peer else None
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
    parser.add_argument("--peer", type=peer_checkout, metavar="nanogpt=PATH", help="also time a checkout of nanoGPT")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=DEFAULT, help="(default: all but gpt2)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each arm is timed (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="shortest duration of one measurement (default %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="also time gptx with each kernel")
    parser.add_argument(
        "--arm", action="append", default=[], metavar="OVERRIDES", help="also time gptx with these overrides"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="(default auto)")
    parser.add_argument("--markdown", action="store_true", help="print a markdown table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results of every round to this file")
    return parser


def peer_checkout(text: str) -> tuple[str, Path]:
    """The argument of --peer: the name of the peer and the folder of its checkout."""
    name, _, path = text.partition("=")
    if name != "nanogpt" or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not nanogpt=PATH")
    if not (Path(path).expanduser() / "model.py").is_file():
        raise argparse.ArgumentTypeError(
            f"there is no model.py in {path}: expected a checkout (git clone https://github.com/karpathy/nanoGPT)"
        )
    return name, Path(path).expanduser()


def _bench(args: argparse.Namespace) -> None:
    if args.rounds < 1 or args.seconds < 0:
        raise GptxError(f"--rounds {args.rounds} --seconds {args.seconds:g}: expected at least 1 round and 0 seconds")
    check_output("--json", args.json)
    from gptx.hardware.device import pick

    device = pick(args.device)
    timings: list[Timing] = []
    with Console(stderr=True).status("") as status:
        for name in args.shape:
            with tempfile.TemporaryDirectory() as folder:
                timings += _shape(name, args, Path(folder), status.update)
    _show(timings, f"{machine_text(device)}, {args.rounds} rounds", args)
    rows = [asdict(timing) | {"median": timing.median, "ratio": timing.ratio} for timing in timings]
    write_json(args.json, machine_facts(device) | {"rounds": args.rounds, "timings": rows})


def _shape(name: str, args: argparse.Namespace, folder: Path, report: Callable[[str], Any]) -> list[Timing]:
    """Time the arms of one shape in alternation. Only one exists at a time, so that large models fit in memory."""
    from benchmarks.training_arms import Shape, Turn, turn

    shape, arms = Shape(*SHAPES[name]), _arms(args, folder)
    turns: dict[str, list[Turn]] = {label: [] for label in arms}
    for number in range(args.rounds):
        for label in reversed(arms) if number % 2 else arms:
            report(f"{name}: round {number + 1} of {args.rounds}, {label}")
            make, *rest = arms[label]
            turns[label].append(run_isolated(turn, make, shape, (args.device, *rest), args.seconds))
    peer = turns[args.peer[0]] if args.peer else None
    if peer:
        expected, found = peer[0].n_params, turns["gptx"][0].n_params
        assert found == expected, f"not the same model: {args.peer[0]} has {expected:,} parameters, gptx {found:,}"
    return [Timing.of(name, label, turns_of_arm, peer) for label, turns_of_arm in turns.items()]


def _arms(args: argparse.Namespace, folder: Path) -> dict[str, tuple[Any, ...]]:
    """By label: the class of the arm, and its arguments after (shape, device)."""
    from benchmarks.training_arms import PEERS, Gptx

    arms: dict[str, tuple[str, ...]] = {"gptx": SAME_MODEL, "gptx fp32": (*SAME_MODEL, "precision=fp32")}
    arms |= {"gptx, default variant": ()}
    if args.all:
        kernels = options("kernel")
        named = {kernel: (*SAME_MODEL, f"kernel={kernel}") for kernel in kernels if supports(kernel, args)}
        arms |= {f"gptx kernel={kernel}": overrides for kernel, overrides in named.items()}
    arms |= {f"gptx {text}": tuple(text.split()) for text in args.arm}
    peer = {args.peer[0]: (PEERS[args.peer[0]], args.peer[1])} if args.peer else {}
    return {**peer, **{label: (Gptx, overrides, folder) for label, overrides in arms.items()}}


def supports(kernel: str, args: argparse.Namespace) -> bool:
    """Whether a kernel other than auto can compute the timed model on the device."""
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
    from benchmarks.training_arms import Shape

    return [f"{name}: {Shape(*SHAPES[name])}" for name in dict.fromkeys(timing.shape for timing in timings)]


def _show(timings: list[Timing], conditions: str, args: argparse.Namespace) -> None:
    head, rows, legend = _head(args.peer), _rows(timings, args.peer), _legend(timings)
    if args.markdown:
        print(f"{markdown_table(head, rows)}\n\n{'; '.join(legend)}. Medians of interleaved rounds: {conditions}.")
    else:
        terminal_table(head, rows, title="Training speed", caption="\n".join([*legend, conditions]))


if __name__ == "__main__":
    sys.exit(main())
