"""Part 4a: every strategy on one GPU, in a group of one process with nccl: its losses equal those of single."""

import functools
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gpu.compiler import needs_compiler
from benchmarks.gpu.part import Part, Partial, Results, Row, Settings
from benchmarks.report import markdown_table
from benchmarks.strategies import COMMON, LIMIT, MODELS, SMALL, open_trainer, train_step

MODEL = "gqa, rope, sliding"
FSDP = ("offload=true", "prefetch=2", "reshard=false", "param_dtype=bf16", "param_dtype=bf16 reduce_dtype=bf16")
GROUPS_OF_ONE = {"hsdp": "strategy.shard=1", "fsdp_tp": "strategy.tp=1"}
BOUNDS = {"fp32": LIMIT, "bf16": 1e-3}  # of the relative difference of a loss
BOUND_LOW = 2e-2  # where the strategy rounds weights or gradients to bf16


@dataclass(frozen=True)
class Setup:
    """``extra``: more overrides, separated by blanks."""

    strategy: str
    dtype: str
    extra: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, [f"{self.strategy} {self.dtype}", self.extra.replace("strategy.", "")]))

    @property
    def bound(self) -> float:
        return BOUND_LOW if "=bf16" in self.extra else BOUNDS[self.dtype]

    def overrides(self, settings: Settings) -> list[str]:
        return [*SMALL, *COMMON, *MODELS[MODEL], f"precision={self.dtype}", f"device={settings.device}"]


@dataclass(frozen=True)
class Losses:
    """The losses of each step. ``difference``: the largest relative one from those of single."""

    setup: Setup
    losses: list[float]
    difference: float
    bound: float

    @property
    def text(self) -> str:
        return f"the losses of {len(self.losses)} steps differ by at most {self.difference:.1e}"

    @property
    def wrong(self) -> str:
        return "" if self.difference <= self.bound else f"expected at most {self.bound:g}"


def cases(settings: Settings) -> Mapping[str, Setup]:
    if settings.toy:
        setups = [Setup("ddp", "fp32"), Setup("fsdp", "fp32", "strategy.prefetch=2"), Setup("pp", "fp32")]
        setups += [Setup(name, "fp32", GROUPS_OF_ONE.get(name, "")) for name in ("tp", "cp", "hsdp", "fsdp_tp")]
        return {str(setup): setup for setup in setups}
    fsdp = [" ".join(f"strategy.{key}" for key in extra.split()) for extra in FSDP]
    setups = [Setup(name, dtype) for dtype in BOUNDS for name in ("ddp", "fsdp")]
    setups += [Setup("fsdp", "bf16", extra) for extra in fsdp] + [Setup("fsdp", "fp32", fsdp[0])]
    setups += [Setup(name, "fp32", GROUPS_OF_ONE.get(name, "")) for name in ("tp", "cp", "pp", "hsdp", "fsdp_tp")]
    setups += [Setup(name, "fp32", "trainer.micro_batch=2") for name in ("ddp", "fsdp")]
    setups += [Setup(name, "bf16", "compile=true") for name in ("ddp", "fsdp")]
    return {str(setup): setup for setup in setups}


def measure(setup: Setup, settings: Settings, partial: Partial) -> Losses:
    import torch

    if "compile=true" in setup.extra:
        needs_compiler(settings)
    torch.compiler.reset()
    steps = 4 if settings.toy else 20
    own = [key for key in setup.extra.split() if not key.startswith("strategy.")]
    single = reference(setup.dtype, " ".join(own), steps, settings)
    os.environ |= one_rank()
    overrides = [*setup.overrides(settings), f"strategy={setup.strategy}", "strategy.nproc=1", *setup.extra.split()]
    losses = train(overrides, steps)
    difference = max(abs(a - b) / b for a, b in zip(losses, single, strict=True))
    return Losses(setup, losses, difference, setup.bound)


@functools.cache
def reference(dtype: str, extra: str, steps: int, settings: Settings) -> list[float]:
    """The losses of strategy=single."""
    for name in one_rank():
        os.environ.pop(name, None)
    return train([*Setup("single", dtype).overrides(settings), *extra.split()], steps)


def train(overrides: Sequence[str], steps: int) -> list[float]:
    with open_trainer([*overrides, f"trainer.max_steps={steps}"]) as trainer:
        return [train_step(trainer) for _ in range(steps)]


def one_rank() -> dict[str, str]:
    """The environment of the only rank of a group, with a port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def tables(rows: Sequence[Row], results: Results) -> str:
    lines = [(row.case, f"{row.figures['difference']:.1e}", f"{row.figures['bound']:g}") for row in rows]
    text = "Largest relative difference of a loss from that of strategy=single, in a group of one process."
    return "\n\n".join([text, markdown_table(("strategy", "difference", "allowed"), lines, left=1)])


PART = Part("strategies", "Strategies on one GPU", 45, 40, cases, measure, tables)
