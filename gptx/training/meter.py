"""The meter: accumulates measurements between two metrics records of the journal, and combines them over the ranks."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptx.strategy.base import Strategy


@dataclass(frozen=True)
class Reading:
    """The measurements of the meter, combined over all ranks.

    Attributes:
        values: by the metric's key, for the journal. Without "train/loss" where all steps were skipped, and without
            "train/grad_norm" where the norm is not finite.
        skipped: steps without an update since the run started.
        seconds_per_step: mean time of a step on this rank since the previous reading.
    """

    values: dict[str, float]
    skipped: int
    seconds_per_step: float


class Meter:
    """Adds up losses on the device, so that training waits for the device only when the meter is read.

    Attributes:
        totals: (3,) on this rank: the sum of the losses and the number of steps since the last reading, both without
            skipped steps, and the number of skipped steps since the run started.
    """

    def __init__(self, strategy: Strategy, tokens_per_step: int) -> None:
        self.strategy, self.tokens_per_step = strategy, tokens_per_step
        self.totals = torch.zeros(3, device=strategy.device)
        self.grad_norm = torch.zeros((), device=strategy.device)
        self.model_metrics: dict[str, Tensor] = {}
        self.start_clock(0)

    def start_clock(self, step: int) -> None:
        """Start to measure the speed. ``step``: number of steps done so far."""
        self.clock_time, self.clock_step = time.perf_counter(), step

    def add(self, loss: Tensor, model_metrics: dict[str, Tensor], grad_norm: Tensor, updated: Tensor) -> None:
        """Record one step. All tensors are scalars on the device; ``updated``: whether the step was not skipped."""
        self.totals += torch.stack([torch.where(updated, loss, 0.0), updated.float(), 1 - updated.float()])
        self.model_metrics, self.grad_norm = model_metrics, grad_norm

    def read(self, step: int) -> Reading:
        """Combine the measurements up to ``step`` over the ranks, and reset the meter. Waits for the device."""
        own = torch.cat([self.totals, *(value[None] for value in self.model_metrics.values())])
        loss, steps, skipped, *model_metrics = self.strategy.sum(own.clone()).tolist()
        seconds = (time.perf_counter() - self.clock_time) / (step - self.clock_step)
        self.start_clock(step)
        self.totals[:2] = 0
        ranks = self.strategy.loss_ranks
        values = {"perf/tokens_per_s": self.tokens_per_step / seconds}
        values |= {f"train/{name}": x / ranks for name, x in zip(self.model_metrics, model_metrics, strict=True)}
        if steps:
            values["train/loss"] = loss / steps
        if math.isfinite(grad_norm := self.grad_norm.item()):
            values["train/grad_norm"] = grad_norm
        return Reading(values, round(skipped / ranks), seconds)

    def totals_of_all_ranks(self) -> list[list[float]]:
        """The totals of all ranks (ranks, 3), for a checkpoint. Training continues bit for bit only with the same
        number of ranks."""
        totals = torch.zeros(self.strategy.size, 3, device=self.strategy.device)
        totals[self.strategy.rank] = self.totals
        rows: list[list[float]] = self.strategy.sum(totals).tolist()
        return rows

    def restore(self, totals_of_all_ranks: Sequence[Sequence[float]]) -> None:
        """Continue with the totals of a checkpoint. With another number of ranks, each rank uses their mean."""
        totals, rank = torch.tensor(totals_of_all_ranks), self.strategy.rank
        same_ranks = len(totals) == self.strategy.size and bool(totals[rank].any())
        self.totals.copy_(totals[rank] if same_ranks else totals.sum(0) / max(1, int(totals.any(1).sum())))
