"""Part 5c, on a machine with several GPUs: the strategies over all of them."""

import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gpu.part import Part, Partial, Results, Row, Settings
from benchmarks.gpu.strategies import BOUNDS, train
from benchmarks.report import markdown_table
from benchmarks.strategies import COMMON, MODELS, SMALL, open_trainer, train_step
from gptx.runs.units import human

STRATEGIES = ("single", "ddp", "fsdp", "tp", "cp", "pp")
MODEL = "mha, learned, full"


@dataclass(frozen=True)
class Setup:
    strategy: str
    processes: int

    def __str__(self) -> str:
        return f"{self.strategy} on {self.processes}"

    def equal(self, settings: Settings) -> list[str]:
        """The overrides of the run whose losses are compared; its sizes can be split over all processes."""
        count = max_processes(settings)
        sizes = [f"model.n_layer={max(4, count)}", f"model.n_head={max(8, count)}", f"trainer.batch_size={8 * count}"]
        return [*SMALL, *sizes, "precision=fp32", *self._common(settings)]

    def fast(self, settings: Settings) -> list[str]:
        """The overrides of the run that is timed: GPT-2 124M, 16 rows per GPU."""
        count = max_processes(settings)
        large = ["model=gpt2", "model.dropout=0", "model.n_head=16", "model.vocab_size=50304", "precision=bf16"]
        sizes = (
            [*SMALL, f"trainer.batch_size={8 * count}"]
            if settings.toy
            else [*large, f"trainer.batch_size={16 * count}"]
        )
        return [*sizes, *self._common(settings)]

    def _common(self, settings: Settings) -> list[str]:
        strategy = [f"strategy={self.strategy}"]
        strategy += [f"strategy.nproc={self.processes}"] if self.strategy != "single" else []
        return [*COMMON, *MODELS[MODEL], f"device={settings.device}", *strategy]


@dataclass(frozen=True)
class Found:
    """``peak``: bytes of the rank that needs most; ``difference``: the largest relative one of a loss from single's;
    None: single has no losses."""

    setup: Setup
    losses: list[float]
    tokens_per_s: float
    peak: int
    difference: float | None = None

    @property
    def text(self) -> str:
        differ = "" if self.difference is None else f", losses differ by {self.difference:.1e}"
        return f"{self.tokens_per_s:,.0f} tokens/s, {human(self.peak, 'B')}{differ}"

    @property
    def wrong(self) -> str:
        fine = self.difference is None or self.difference <= BOUNDS["fp32"]
        return "" if fine else f"expected at most {BOUNDS['fp32']:g}"


def max_processes(settings: Settings) -> int:
    return settings.gpus or 2


def skip(settings: Settings) -> str:
    return "this machine has one GPU" if settings.gpus == 1 else ""


def cases(settings: Settings) -> Mapping[str, Setup]:
    names = ("single", "tp") if settings.toy else STRATEGIES
    setups = [Setup(name, 1 if name == "single" else max_processes(settings)) for name in names]
    return {str(setup): setup for setup in setups}


def measure(setup: Setup, settings: Settings, partial: Partial) -> Found:
    from gptx.hardware.cpu import cores
    from gptx.processes import workers

    place = Path(settings.scratch) / f"several-{setup.strategy}"
    place.mkdir(exist_ok=True)
    out = place / "found.json"
    threads = max(1, cores() // setup.processes)
    workers.start(group, (setup, settings, str(out)), setup.processes, threads, place)
    found = json.loads(out.read_text())
    single = Path(settings.scratch) / "several-single" / "found.json"
    if not single.exists():
        return Found(**found | {"setup": setup})
    pairs = zip(found["losses"], json.loads(single.read_text())["losses"], strict=True)
    return Found(**found | {"setup": setup, "difference": max(abs(a - b) / b for a, b in pairs)})


def group(setup: Setup, settings: Settings, out: str) -> None:
    """The work of each process: train the small model, then time the large one. Rank 0 writes the figures."""
    import torch.distributed as dist

    from gptx.hardware.description import peak_memory

    if setup.processes > 1:  # once for both runs: a second group would find the keys of the first one in the store
        backend = "cpu:gloo,cuda:nccl" if settings.device == "cuda" else "gloo"
        dist.init_process_group(backend)
    losses = train(setup.equal(settings), 4 if settings.toy else 20)
    with open_trainer([*setup.fast(settings), "trainer.max_steps=100"]) as trainer:
        times = []
        for _ in range(3 if settings.toy else 12):
            start = time.perf_counter()
            train_step(trainer)
            times.append(time.perf_counter() - start)
        tokens = trainer.plan.batch_size * trainer.cfg.model.context
        peak = trainer.strategy.max(peak_memory(trainer.strategy.device))
    found = Found(setup, losses, tokens / statistics.median(times[2:]), peak)
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(asdict(found)))
    if dist.is_initialized():
        dist.destroy_process_group()


def tables(rows: Sequence[Row], results: Results) -> str:
    head = ("strategy", "tokens/s", "peak, GB", "difference from single")
    lines = []
    for row in rows:
        found = row.figures
        difference = "" if found["difference"] is None else f"{found['difference']:.1e}"
        lines.append((row.case, f"{found['tokens_per_s']:,.0f}", f"{found['peak'] / 1e9:.2f}", difference))
    text = (
        "Losses: a small model in fp32. Speed: GPT-2 124M with 16 heads, context 1,024, 16 rows per GPU, bf16, eager."
    )
    return "\n\n".join([text, markdown_table(head, lines, left=1)])


PART = Part("several", "Strategies over all GPUs", 90, 90, cases, measure, tables, skip)
