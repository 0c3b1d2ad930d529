"""The state of training that a checkpoint stores besides weights and moments, and that a resume restores."""

from dataclasses import dataclass, field

import torch
from omegaconf import DictConfig

from gptx.errors import RunFailed
from gptx.runs.checkpoint_files import CheckpointMeta, steps
from gptx.runs.folder import RunFolder
from gptx.runs.metrics import selection_curve
from gptx.runs.resume_source import checkpoint_of
from gptx.strategy.base import Strategy
from gptx.training import checkpoint
from gptx.training.meter import Meter


@dataclass
class BestValidation:
    """The validation with the lowest loss of the selection half so far. ``stale``: how many validations followed it."""

    step: int = 0
    stale: int = 0
    values: dict[str, float] = field(default_factory=lambda: {"val/loss": float("inf")})

    def add(self, step: int, values: dict[str, float]) -> bool:
        """Record a validation. Return whether its loss is the lowest so far."""
        loss, lowest = (selection_curve("val_loss", one) for one in (values, self.values))
        assert loss is not None and lowest is not None
        better = loss < lowest
        if better:
            self.step, self.stale, self.values = step, 0, values
        else:
            self.stale += 1
        return better


@dataclass
class TrainingState:
    """The progress of a run.

    Attributes:
        step: optimiser steps done.
        resumed_steps, resumed_tokens: steps and tokens that were done before this process started, including those
            of the run that ``resume_from`` names.
        batch_checksum: CRC-32 of the batches' row starts since the last metrics record (see `gptx.data.batches`).
        peak_memory: bytes, of the largest rank since the run started.
        best: the best validation.
    """

    step: int = 0
    resumed_steps: int = 0
    resumed_tokens: int = 0
    batch_checksum: int = 0
    peak_memory: int = 0
    best: BestValidation = field(default_factory=BestValidation)

    def tokens(self, tokens_per_step: int) -> int:
        """Tokens trained on, including those of the run that ``resume_from`` names."""
        return self.resumed_tokens + (self.step - self.resumed_steps) * tokens_per_step


def checkpoint_meta(state: TrainingState, meter: Meter) -> CheckpointMeta:
    """Return the content of a checkpoint's meta.json. All ranks must call this."""
    return CheckpointMeta(
        step=state.step,
        rank_totals=tuple(map(tuple, meter.totals_of_all_ranks())),
        best={"step": state.best.step, "stale": state.best.stale, **state.best.values},
        peak_memory=state.peak_memory,
        tokens=state.tokens(meter.tokens_per_step),
        batch_checksum=state.batch_checksum,
        torch=torch.__version__,
    )


def resume(
    cfg: DictConfig, folder: RunFolder, model: torch.nn.Module, optimizer: torch.optim.Optimizer, meter: Meter
) -> TrainingState:
    """Load the newest checkpoint of the run, else the one that ``resume_from`` names, into model, optimizer and meter.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        RunFailed: the ranks found different checkpoints.
    """
    state, saved = TrainingState(), steps(folder.checkpoints)
    start = None if saved else folder.start_record()
    source = start.resume_source if start else None
    if saved:
        meta = checkpoint.load(saved[-1], model, optimizer)
        state = _state_of(meta)
        state.peak_memory = meta.peak_memory
        best = dict(meta.best)
        state.best = BestValidation(int(best.pop("step")), int(best.pop("stale")), best)
        meter.restore(meta.rank_totals)
    elif source:
        meta = checkpoint.load(checkpoint_of(cfg.resume_from, source.step), model, optimizer)
        state = _state_of(meta)
        meter.restore(meta.rank_totals)
        meter.totals[2] = 0  # skipped steps count from the start of this run, as does the best validation
    meter.start_clock(state.step)
    _check_same_step(state.step, folder, meter.strategy)
    return state


def _state_of(meta: CheckpointMeta) -> TrainingState:
    return TrainingState(meta.step, meta.step, meta.tokens, meta.batch_checksum)


def _check_same_step(step: int, folder: RunFolder, strategy: Strategy) -> None:
    if strategy.max(step) != -strategy.max(-step):
        raise RunFailed(
            f"the processes found different checkpoints in {folder.path} (this one step {step}): paths.outputs must "
            "be a folder that all machines share"
        )
