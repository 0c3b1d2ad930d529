"""Arms during training: their validation losses, and when they reach the baseline's final loss."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gptx.compare.arms import Arm
from gptx.compare.findings import ArmCurve, ArmReach, CostUnit
from gptx.compare.frames import curves
from gptx.compare.run_rows import RunRow
from gptx.statistics.reach import Curve, Reach, reach

if TYPE_CHECKING:
    import pandas as pd

    from gptx.compare.comparison import Comparison

_LOSS = "val/loss"


@dataclass(frozen=True, kw_only=True)
class RunCurve:
    """The validation losses of a run, of shape (validations,), and the cost until each of them."""

    losses: tuple[float, ...]
    costs: dict[CostUnit, tuple[float, ...]]

    def over(self, unit: CostUnit) -> Curve:
        """The losses over one unit of cost."""
        return Curve(self.costs[unit], self.losses)


def run_curves(rows: Iterable[RunRow]) -> dict[str, RunCurve]:
    """The validation losses of each run, by its folder, from its journal; none if that is damaged or was not kept."""
    rows = list(rows)
    points = curves(Path(row.run) for row in rows)
    points = points[points["metric"] == _LOSS].drop_duplicates(["run", "step"]).sort_values("step", kind="stable")
    found = dict(iter(points.groupby("run", sort=False)))
    return {row.run: _run_curve(row, found.get(row.run, points[:0])) for row in rows}


def _run_curve(row: RunRow, points: "pd.DataFrame") -> RunCurve:
    tokens = tuple(map(float, points["tokens"]))
    costs = {
        CostUnit.STEPS: tuple(map(float, points["step"])),
        CostUnit.TOKENS: tokens,
        CostUnit.FLOPS: tuple(value * row.metrics["flops_per_token"] for value in tokens),
        CostUnit.SECONDS: tuple(map(float, points["seconds"])),
    }
    return RunCurve(losses=tuple(map(float, points["value"])), costs=costs)


def arm_curves(comparison: "Comparison") -> tuple[ArmCurve, ...]:
    """One for each arm that has losses of validations, over the steps that all of its runs have."""
    found = (_arm_curve(arm, [comparison.run_curves[row.run] for row in _finite(arm)]) for arm in comparison.compared)
    return tuple(one for one in found if one is not None)


def _finite(arm: Arm) -> list[RunRow]:
    return [row for row in arm.rows if not row.diverged]


def _arm_curve(arm: Arm, runs: Sequence[RunCurve]) -> ArmCurve | None:
    steps = sorted(set.intersection(*(set(run.costs[CostUnit.STEPS]) for run in runs))) if runs else []
    if not steps:
        return None
    kept = [[run.costs[CostUnit.STEPS].index(step) for step in steps] for run in runs]

    def mean(unit: CostUnit) -> tuple[float, ...]:
        values = [[run.costs[unit][i] for i in places] for run, places in zip(runs, kept, strict=True)]
        return tuple(map(float, np.mean(values, axis=0)))

    losses = np.array([[run.losses[i] for i in places] for run, places in zip(runs, kept, strict=True)])
    return ArmCurve(
        arm=arm.name,
        steps=tuple(steps),
        tokens=mean(CostUnit.TOKENS),
        flops=mean(CostUnit.FLOPS),
        seconds=() if seconds_problem([arm]) else mean(CostUnit.SECONDS),
        mean=tuple(map(float, losses.mean(axis=0))),
        low=tuple(map(float, losses.min(axis=0))),
        high=tuple(map(float, losses.max(axis=0))),
        n=len(runs),
    )


def seconds_problem(arms: Sequence[Arm]) -> str:
    """Why times of these arms do not compare; empty if they do."""
    rows = [row for arm in arms for row in arm.rows]
    if any(row.result.other_runs for row in rows):
        return "runs shared the machine with other runs, so their times do not compare"
    if len({row.hardware for row in rows}) > 1:
        return "the hardware differs"
    if len({row.result.threads for row in rows if row.device == "cpu"}) > 1:
        return "the numbers of CPU threads differ"
    return ""


def arm_reaches(comparison: "Comparison") -> tuple[ArmReach, ...]:
    """For each arm but the baseline and each unit of cost."""
    if comparison.baseline is None:
        return ()
    return tuple(
        _arm_reach(comparison, one.arm, comparison.baseline, unit) for one in comparison.arms for unit in CostUnit
    )


def _arm_reach(comparison: "Comparison", arm: Arm, baseline: Arm, unit: CostUnit) -> ArmReach:
    if unit is CostUnit.SECONDS and (problem := seconds_problem([arm, baseline])):
        return ArmReach(arm=arm.name, unit=unit, problem=problem)
    base = {row.seed_label: comparison.run_curves[row.run] for row in _finite(baseline)}
    rows = [row for row in (*arm.rows, *arm.diverged) if row.seed_label in base]
    pairs = [(comparison.run_curves[row.run].over(unit), base[row.seed_label].over(unit)) for row in rows]
    try:
        found: Reach | None = reach(pairs) if pairs else None
    except ValueError:  # a run without validations, or whose costs are unknown
        found = None
    known = all(math.isfinite(value) for pair in pairs for curve in pair for value in curve.positions)
    if found is None or not known:
        why = f"the {unit} of a run are unknown" if pairs else "the arm shares no seed with the baseline"
        return ArmReach(arm=arm.name, unit=unit, problem=why)
    return ArmReach(arm=arm.name, unit=unit, reach=found)
