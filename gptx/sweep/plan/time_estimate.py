"""Estimate how long runs will take: their FLOPs divided by the speed of similar finished runs or of a timed step."""

import heapq
import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from math import log
from pathlib import Path
from typing import Any

from gptx.config.axes import model_axes
from gptx.runs import checkpoint_files, journal
from gptx.runs.folder import RunFolder
from gptx.runs.preflight_facts import RunSetup
from gptx.runs.records import Result
from gptx.sweep.execute.isolated import map_isolated
from gptx.sweep.plan.cells import Cell, warn_no_estimate
from gptx.sweep.plan.timed_step import StepToTime, flops_per_second

STARTUP, STARTUP_OF_MANY = 1.5, 8.0  # seconds before training: composing, building; and starting workers with torch
FAR = log(10)  # a run whose FLOPs per token differ by more than this factor is not used
TIMING = 5.0  # seconds to spend on timing steps; then arms take the speed of the most similar timed one
WORTH = 0.02  # fraction of the sweep's estimated time that may be spent on timing
NEIGHBOURS = 3  # finished runs whose median speed is taken


@dataclass(frozen=True)
class Setting:
    """Speeds are comparable if their settings are equal. ``name``: device name; empty if the machine is unknown."""

    device: str
    name: str
    dtype: str
    processes: int
    compiled: bool
    threads: int

    @classmethod
    def of(cls, cfg: Mapping[str, Any], setup: RunSetup, jobs: int) -> "Setting":
        """The setting of a run; ``jobs``: how many runs share the cores."""
        hardware, processes = setup.hardware, setup.processes
        threads = cfg["runtime"]["threads"] or max(1, hardware.cores // (jobs * processes))
        return cls(hardware.device, hardware.name, setup.dtype, processes, bool(cfg["compile"]), threads)

    def comparable(self, known: "Setting") -> bool:
        """Whether speeds are comparable. If this machine is unknown, its name and its threads are ignored."""
        if self.name:
            return known == self
        alike = ("device", "dtype", "processes", "compiled")
        return all(getattr(known, key) == getattr(self, key) for key in alike)


@dataclass(frozen=True)
class Speed:
    """The known training speed of a model.

    Attributes:
        flops_per_token: training FLOPs per token of the model.
        axes: the options of the model that affect the speed, see `_axes`.
        flops_per_second: model FLOPs per second in training.
        timed: whether the speed comes from a timed step instead of a finished run.
    """

    setting: Setting
    flops_per_token: float
    axes: tuple[str, ...]
    flops_per_second: float
    timed: bool = False

    def distance(self, flops_per_token: float, axes: tuple[str, ...]) -> float:
        different = sum(a != b for a, b in zip(self.axes, axes, strict=True))
        return abs(log(self.flops_per_token / flops_per_token)) + 0.5 * different


@dataclass(frozen=True)
class TimeEstimate:
    """The estimated time of the rest of a run.

    Attributes:
        seconds: the remaining seconds; None if unknown.
        processes: number of processes of the run.
        source: what the estimate is based on, for the user; empty if unknown.
    """

    seconds: float | None
    processes: int
    source: str = ""


@dataclass
class TimeEstimator:
    """Estimates the time of cells.

    Args:
        outputs: the folder with finished runs.
        jobs: the number of runs that share the cores.
        here: whether the runs are for this machine, so that a step can be timed.
        runs: the number of runs that will follow; 0 for a dry run, which may time steps for as long as `TIMING`.
    """

    outputs: Path
    jobs: int
    here: bool = True
    runs: int = 0
    known: list[Speed] = field(default_factory=list)
    spent: float = 0.0
    estimated: list[float] = field(default_factory=list)
    failed_arms: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        results = (RunFolder(path).result() for path in journal.runs(self.outputs))
        self.known += [speed for result in results if result and (speed := _speed_of(result))]

    def estimate(self, cell: Cell) -> TimeEstimate:
        setting, processes = Setting.of(cell.config, cell.checked, self.jobs), cell.checked.processes
        flops, axes = cell.checked.flops_per_token, _axes(cell.config["variant"])
        similar = self._similar(setting, flops, axes)
        untimed = not similar or (similar[0].timed and similar[0].axes != axes)
        if untimed and self._may_time() and cell.arm not in self.failed_arms:
            if speed := self._time_step(cell, setting.threads):
                self.known.append(Speed(setting, flops, axes, speed, timed=True))
                similar = self._similar(setting, flops, axes)
            else:
                self.failed_arms.add(cell.arm)
        if not similar:
            return TimeEstimate(None, processes)
        speed = statistics.median(one.flops_per_second for one in similar)
        seconds = startup(processes) + remaining_flops(cell) / speed
        self.estimated.append(seconds)
        finished = f"{len(similar)} finished run{'s' * (len(similar) > 1)}"
        return TimeEstimate(seconds, processes, "a timed step" if similar[0].timed else finished)

    def _time_step(self, cell: Cell, threads: int) -> float | None:
        start = time.monotonic()
        step = StepToTime(cell.config, cell.checked, threads)
        [speed] = map_isolated(flops_per_second, [step], warn_no_estimate(f"the time of {cell.title}"), sequential=True)
        self.spent += time.monotonic() - start
        return speed

    def _may_time(self) -> bool:
        limit = TIMING
        if self.estimated and self.runs:
            limit = min(TIMING, WORTH * statistics.mean(self.estimated) * self.runs / self.jobs)
        return self.here and self.spent < limit

    def _similar(self, setting: Setting, flops: float, axes: tuple[str, ...]) -> list[Speed]:
        """The most similar finished runs, or else the most similar timed step."""
        found = [
            speed
            for speed in self.known
            if setting.comparable(speed.setting) and abs(log(speed.flops_per_token / flops)) < FAR
        ]
        found.sort(key=lambda speed: (speed.timed, speed.distance(flops, axes)))
        count = 1 if found and found[0].timed else NEIGHBOURS
        return list(islice((speed for speed in found if speed.timed == found[0].timed), count))


def startup(processes: int) -> float:
    """Seconds from the start of a run to its first step."""
    return STARTUP if processes == 1 else STARTUP_OF_MANY


def remaining_flops(cell: Cell) -> float:
    """FLOPs of the remaining steps and validations; a validation token counts a third, because it has no backward."""
    trainer, available = cell.config["trainer"], cell.checked.data.val_tokens or 0
    saved = checkpoint_files.steps(cell.folder.checkpoints) if cell.folder and not cell.config["force"] else []
    steps = trainer["max_steps"] - (checkpoint_files.step_of(saved[-1]) if saved else 0)
    val_tokens = min(trainer["val_tokens"] or available, available)
    validations = -(-steps // trainer["eval_every"])
    tokens = steps * trainer["batch_size"] * cell.config["model"]["context"] + validations * val_tokens / 3
    return float(tokens * cell.checked.flops_per_token)


@dataclass(frozen=True)
class RunTime:
    """A run's estimated seconds and its number of processes."""

    seconds: float
    processes: int


def total_seconds(runs: Iterable[RunTime], jobs: int) -> float:
    """Seconds until all runs have ended, if they start in this order and at most ``jobs`` processes run at once."""
    free = [0.0] * jobs  # the time in seconds at which each slot becomes free
    for run in runs:
        taken = [heapq.heappop(free) for _ in range(min(run.processes, jobs))]
        for _ in taken:
            heapq.heappush(free, max(taken) + run.seconds)
    return max(free)


def _axes(variant: Mapping[str, str]) -> tuple[str, ...]:
    """The options that the speed depends on, besides the model's size."""
    return tuple(variant[axis] for axis in model_axes() if axis != "norm")


def _speed_of(result: Result) -> Speed | None:
    """The speed of a finished run; None if its result is of another version, or was not measured."""
    if not result.tokens_per_s:
        return None
    with suppress(LookupError, TypeError):
        setting, axes = Setting.of(result.config, result, 1), _axes(result.variant)
        return Speed(setting, result.flops_per_token, axes, result.tokens_per_s * result.flops_per_token)
    return None
