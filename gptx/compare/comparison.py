"""The comparison of arms with a baseline: which are better, by how much, how surely. `gptx.statistics` computes it."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from gptx.compare.arm_effects import ArmEffect, arm_effects, computed_effects, values_frame
from gptx.compare.arms import Arm, always_diverged, arms_of, find_baseline, with_diverged
from gptx.compare.comparability import warnings
from gptx.compare.comparable_arms import comparable_arms
from gptx.compare.costs import arm_costs
from gptx.compare.findings import ArmCost, ArmCurve, ArmReach, ArmTextDoubt, GridEffects, StrategyCheck
from gptx.compare.frames import results
from gptx.compare.grid import grid_effects
from gptx.compare.metric_choice import chosen_margin, chosen_metric
from gptx.compare.run_rows import selected
from gptx.compare.selection import FoundRuns
from gptx.compare.strategy_check import strategy_check
from gptx.compare.study_about import StudyAbout, about
from gptx.compare.summary import summarise
from gptx.compare.text_doubt import text_doubts
from gptx.compare.training_curves import RunCurve, arm_curves, arm_reaches, run_curves
from gptx.runs.metrics import Metric
from gptx.statistics.effects import Effects


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Arms compared with a baseline by one metric.

    Attributes:
        metric: its unit is that of all differences.
        baseline: the arm that the others are compared with; None if there is none, because fewer than two arms can be
            compared.
        chosen_because: why it is the baseline; empty if it was given.
        margin: differences below it do not matter, in the unit of the values; 0: none was set.
        arms: the other arms, as far as they are comparable with the baseline.
        effects: what the runs show about them; None without a baseline.
        excluded: one line for each reason for which arms are not compared.
        found: all runs.
        study: what the study of all runs says about itself; empty if they belong to several.
        all_keys: whether tables show keys that only differ between options.
        include_unfinished: whether tables show unfinished runs.
    """

    metric: Metric
    baseline: Arm | None
    chosen_because: str
    margin: float
    arms: tuple[ArmEffect, ...]
    effects: Effects | None
    excluded: tuple[str, ...]
    found: FoundRuns
    study: StudyAbout
    all_keys: bool = False
    include_unfinished: bool = False

    @cached_property
    def variants(self) -> pd.DataFrame:
        """One row for each variant, see `gptx.compare.summary.summarise`."""
        return summarise(self.found.rows, all_keys=self.all_keys, include_unfinished=self.include_unfinished)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row for each run that is compared, see `gptx.compare.frames.results`."""
        rows = selected(self.found.rows, include_unfinished=self.include_unfinished)
        return results(rows, all_keys=self.all_keys)

    @cached_property
    def warnings(self) -> list[str]:
        """Why rows of the tables are not comparable or not plausible."""
        return warnings(self.found.rows, self.variants)

    @cached_property
    def compared(self) -> tuple[Arm, ...]:
        """The arms that are compared, the baseline first; none without a baseline."""
        return (self.baseline, *(one.arm for one in self.arms)) if self.baseline else ()

    @cached_property
    def values(self) -> pd.DataFrame:
        """The metric of each run that is compared, see `values_frame`."""
        return values_frame(self.compared, self.metric)

    @cached_property
    def pairs(self) -> Effects | None:
        """The differences of all pairs of arms, whose intervals hold together; None without a baseline."""
        return computed_effects(self.compared, self.baseline, self.metric, self.margin, True) if self.baseline else None

    @cached_property
    def grid(self) -> GridEffects | None:
        """Main effects and interactions; None if the arms form no grid of two or more factors."""
        return grid_effects(self)

    @cached_property
    def text_doubts(self) -> tuple[ArmTextDoubt, ...]:
        """For each of ``arms``, the doubt that the choice of the validation text adds; empty unless the metric is the
        validation loss."""
        return text_doubts(self)

    def doubt_of(self, arm: str) -> ArmTextDoubt | None:
        """The text doubt about an arm; None if there is none."""
        return next((one for one in self.text_doubts if one.arm == arm), None)

    @cached_property
    def run_curves(self) -> dict[str, RunCurve]:
        """The validation losses of each run of ``compared`` during training, by its folder."""
        return run_curves(row for arm in self.compared for row in (*arm.rows, *arm.diverged))

    @cached_property
    def reaches(self) -> tuple[ArmReach, ...]:
        """For each of ``arms`` and each unit of cost, when it reaches the baseline's final loss."""
        return arm_reaches(self)

    @cached_property
    def strategies(self) -> StrategyCheck:
        """Whether the strategy changes the result, if arms differ in it only."""
        return strategy_check(self)

    @cached_property
    def costs(self) -> tuple[ArmCost, ...]:
        """For each of ``compared`` and each cost, its mean and its place relative to the Pareto front."""
        return arm_costs(self)

    @cached_property
    def curves(self) -> tuple[ArmCurve, ...]:
        """For each of ``compared``, its validation losses during training."""
        return arm_curves(self)

    @property
    def table(self) -> pd.DataFrame:
        """The differences, one row for each arm: see `gptx.compare.effect_tables.effects_frame`."""
        from gptx.compare.effect_tables import effects_frame

        return effects_frame(self)

    @property
    def sentence(self) -> str:
        """Which arms are better, worse, equivalent or undecided, and by how much."""
        from gptx.compare.conclusion import sentence

        return sentence(self)

    def _repr_html_(self) -> str:
        """The comparison in a notebook."""
        from gptx.compare.effect_texts import as_html

        return as_html(self)


def compare(
    found: FoundRuns,
    *,
    baseline: str = "",
    margin: float | None = None,
    metric: str = "",
    all_keys: bool = False,
    include_unfinished: bool = False,
) -> Comparison:
    """Compare the arms of some runs with a baseline.

    Args:
        baseline: such as ``attention=mha pos=learned``; "": see `gptx.compare.arms.find_baseline`.
        margin: differences below it do not matter, in the metric's unit (MB for memory); None: that of the study, or
            else of the metric.
        metric: a key of `gptx.runs.metrics.METRICS`; "": val_loss, or val_bpb_whole if the tokenizers differ and all
            runs were validated on the same text.

    Raises:
        GptxError: the metric or the baseline does not exist, or the metric does not vary between seeds.
    """
    rows = selected(found.rows)
    study = about(rows)
    arms = arms_of(rows)
    chosen = chosen_metric(metric, rows)
    first, because = find_baseline(arms, baseline, study.baseline) if arms else (None, "")
    kept, excluded = comparable_arms(arms, first, chosen)
    excluded += always_diverged(arms, found.rows)
    kept = arms_of([row for arm in kept for row in arm.rows])  # with names that tell these arms apart
    kept = with_diverged(kept, found.rows)
    base = next((arm for arm in kept if first and arm.rows[0] is first.rows[0]), None)
    limit = chosen_margin(margin, chosen, study)
    shown = {"all_keys": all_keys, "include_unfinished": include_unfinished}
    computed = computed_effects(kept, base, chosen, limit) if base and len(kept) > 1 else None
    return Comparison(
        metric=chosen,
        baseline=base if computed else None,
        chosen_because=because,
        margin=limit,
        arms=tuple(arm_effects(kept, base, computed, chosen)) if base and computed else (),
        effects=computed,
        excluded=tuple(excluded),
        found=found,
        study=study,
        **shown,
    )
