"""Check that every strategy computes the same losses as one process, and measure its speed.

By default: the relative difference between the losses of every strategy and those of one process, in fp32 and bf16; the
table shows the largest one over 20 steps. With --speed: tokens/s and memory of a larger model on two processes, each
strategy in separate processes. Both use the training step of gptx.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Row, markdown_table, terminal_table, write_json
from gptx.cli import Parser, exit_code
from gptx.config.compose import compose
from gptx.config.overrides import options
from gptx.errors import ConfigError, GptxError, RunFailed
from gptx.output_files import check_output

if TYPE_CHECKING:
    from gptx.training.trainer import Trainer

EXAMPLES = """examples:
  python -m benchmarks.strategies                          all strategies on 2 and 4 processes
  python -m benchmarks.strategies --strategy tp cp --processes 2
  python -m benchmarks.strategies --speed                  tokens/s and memory on 2 processes
"""
LIMIT = 1e-5  # of the relative difference, in fp32
MODELS = {
    "gqa, rope, sliding": ("attention=gqa", "attention.n_kv_head=4", "pos=rope", "window=sliding", "window.size=16"),
    "mha, learned, full": ("attention=mha", "pos=learned", "window=full"),
}
SMALL = (
    *("model.n_layer=4", "model.n_head=8", "model.d_model=64", "model.context=64"),
    *("trainer.batch_size=8", "runtime.threads=1"),
)
LARGE = ("model.n_layer=8", "model.n_head=8", "model.d_model=768", "model.context=128", "trainer.batch_size=4")
COMMON = ("tracking=off", "trainer.val_tokens=4096", "runtime.val_batch=8")


@dataclass(frozen=True)
class Case:
    """The config that one group of processes trains. ``extra``: more overrides, separated by blanks."""

    strategy: str
    processes: int
    model: str
    dtype: str
    extra: str

    @property
    def overrides(self) -> list[str]:
        strategy = [f"strategy={self.strategy}", f"strategy.nproc={self.processes}"]
        extra = [key for key in self.extra.split() if self.strategy != "single" or not key.startswith("strategy.")]
        return [*COMMON, *MODELS[self.model], f"precision={self.dtype}", *strategy, *extra]


def strategies() -> list[str]:
    """All strategies except single, which is the reference."""
    return [strategy for strategy in options("strategy") if strategy != "single"]


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.strategies", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--strategy", nargs="+", choices=strategies(), default=strategies(), help="(default: all)")
    parser.add_argument("--processes", nargs="+", type=int, default=[2, 4], metavar="N", help="(default: 2 4)")
    parser.add_argument("--steps", type=int, default=20, help="(default %(default)s)")
    parser.add_argument(
        "--speed", action="store_true", help="measure tokens/s and memory instead of losses, on 2 processes"
    )
    parser.add_argument("--also", dest="extra", default="", metavar="OVERRIDES", help="e.g. 'compile=true'")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="(default %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print a markdown table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results to this file")
    return parser


def _bench(args: argparse.Namespace) -> None:
    if args.steps < 1 or min(args.processes) < 1:
        raise GptxError(f"--steps {args.steps} --processes {args.processes}: expected at least 1")
    check_output("--json", args.json)
    head, rows, figures = (_speeds if args.speed else _differences)(args)
    write_json(args.json, figures)
    if args.markdown:
        print(markdown_table(head, rows))
    else:
        terminal_table(head, rows)
    if wrong := [case for case in figures if case.get("difference", 0) > LIMIT and case["dtype"] == "fp32"]:
        arms = (f"strategy={case['strategy']} on {case['processes']} processes, {case['model']}" for case in wrong)
        raise RunFailed(f"the loss differs from that of one process, which is a bug of gptx: {'; '.join(arms)}")


def _differences(args: argparse.Namespace) -> tuple[Row, list[Row], Any]:
    kinds = [(model, dtype, args.extra) for model in MODELS for dtype in ("fp32", "bf16")]
    head = ("strategy", "processes", *(f"{model}: {dtype}" for model, dtype, _ in kinds))
    rows: list[Row] = []
    alone = dict(zip(kinds, _losses([Case("single", 1, *kind) for kind in kinds], args), strict=True))
    figures: list[dict[str, Any]] = []
    for count in args.processes:
        cases = [Case(strategy, count, *kind) for strategy in args.strategy for kind in kinds]
        for case, losses in zip(cases, _losses(cases, args), strict=True):
            figures.append({**asdict(case), **_compared(losses, alone[case.model, case.dtype, case.extra])})
    for strategy in args.strategy:
        own = [figure for figure in figures if figure["strategy"] == strategy]
        cells = [[f["text"] for f in own if (f["model"], f["dtype"], f["extra"]) == kind] for kind in kinds]
        rows.append((strategy, *(" / ".join(cell) for cell in (map(str, args.processes), *cells))))
    return head, rows, figures


def _compared(losses: list[float] | str, alone: list[float]) -> dict[str, Any]:
    """The largest relative difference, or why the strategy rejects the case."""
    if isinstance(losses, str):
        return {"text": losses}
    worst = max(abs(a - b) / b for a, b in zip(losses, alone, strict=True))
    return {"losses": losses, "single": alone, "difference": worst, "text": f"{worst:.1e}"}


def _losses(cases: list[Case], args: argparse.Namespace) -> list[Any]:
    """The losses of all steps for each case, or why it is rejected. All cases run in one group of processes."""
    losses: list[Any] = run_group(_train_all, cases, args)
    return losses


def _train_all(cases: list[Case], out: str, steps: int, device: str) -> None:
    """The work of each process of a group: train all cases; rank 0 writes their losses to ``out``."""
    import torch.distributed as dist

    if cases[0].processes > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    losses: list[Any] = []
    for case in cases:
        try:
            with open_trainer([*SMALL, f"trainer.max_steps={steps}", f"device={device}", *case.overrides]) as trainer:
                losses.append([train_step(trainer) for _ in range(steps)])
        except ConfigError as error:
            losses.append(str(error))
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(losses))
    if dist.is_initialized():
        dist.destroy_process_group()


def train_step(trainer: "Trainer") -> float:
    """Train one step; return its loss, the mean over all ranks."""
    trainer.step()
    return trainer.meter.read(trainer.state.step).values["train/loss"]


@contextmanager
def open_trainer(overrides: list[str]) -> Iterator["Trainer"]:
    import torch

    from gptx.config.instantiate import part
    from gptx.data.from_config import tokens_of
    from gptx.model.build import build
    from gptx.runs.folder import RunFolder
    from gptx.strategy.batch_plan import BatchPlan
    from gptx.training.trainer import Trainer

    cfg = compose(overrides)
    strategy = part(cfg.strategy)
    count = strategy.processes(cfg.device.type, int(os.environ.get("WORLD_SIZE", "0")))
    plan = BatchPlan.of(cfg, strategy.batch_slices(count))
    with torch.device("meta"):
        strategy.check(build(cfg, tokens_of(cfg).tokenizer.n_vocab), count, plan)
    with tempfile.TemporaryDirectory() as folder, strategy.open(cfg.device.type):
        trainer = Trainer(cfg, RunFolder(Path(folder)), strategy, None)
        try:
            yield trainer
        finally:
            trainer.close()


def run_group(work: Callable[..., None], cases: list[Case], args: argparse.Namespace) -> Any:
    """Run ``work`` in a group of processes; returns the content of the JSON file that rank 0 writes."""
    from gptx.data.from_config import tokens_of
    from gptx.hardware.cpu import cores
    from gptx.processes import workers

    count = cases[0].processes
    tokens_of(compose(cases[0].overrides))  # create the token files before all processes need them
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rank0.json"
        workers.start(work, (cases, str(out), args.steps, args.device), count, max(1, cores() // count), Path(folder))
        return json.loads(out.read_text())


def _speeds(args: argparse.Namespace) -> tuple[Row, list[Row], Any]:
    count = args.processes[0]
    kind = ("mha, learned, full", "fp32", args.extra)
    cases = [Case("single", 1, *kind), *(Case(strategy, count, *kind) for strategy in args.strategy)]
    head = ("strategy", "processes", "tokens/s", "weights and moments, MB", "peak, MB")
    rows: list[Row] = []
    figures = []
    for case in cases:
        try:
            found = run_group(_time, [case], args)
        except GptxError as error:
            rows.append((case.strategy, str(case.processes), str(error), "", ""))
            continue
        figures.append({**asdict(case), **found})
        speed = f"{found['tokens_per_s']:,.0f}"
        memory = (f"{found['held']:,.0f}", f"{found['peak']:,.0f}")
        rows.append((case.strategy, str(case.processes), speed, *memory))
    return head, rows, figures


def _time(cases: list[Case], out: str, steps: int, device: str) -> None:
    from gptx.hardware.description import peak_memory

    [case] = cases
    with open_trainer([*LARGE, f"trainer.max_steps={steps}", f"device={device}", *case.overrides]) as trainer:
        strategy, before, times = trainer.strategy, peak_memory(trainer.strategy.device), []
        for _ in range(steps):
            then = time.perf_counter()
            train_step(trainer)
            times.append(time.perf_counter() - then)
        tokens = trainer.plan.batch_size * trainer.cfg.model.context
        found = {
            "tokens_per_s": tokens / statistics.median(times[2:] or times),
            "held": strategy.max(held(trainer)) / 1e6,
            "before": strategy.max(before) / 1e6,
            "peak": strategy.max(peak_memory(strategy.device)) / 1e6,
        }
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(found))


def held(trainer: "Trainer") -> int:
    """Bytes of the weights and moments in this process."""
    from gptx.training.checkpoint import tensors

    own = (getattr(t, "_local_tensor", t) for t in tensors(trainer.model, trainer.optimizer).values())
    return sum(t.nbytes for t in own)


if __name__ == "__main__":
    sys.exit(main())
