"""What a comparison finds beyond the differences from the baseline, as typed records.

`gptx.compare.comparison.Comparison` computes each of them when it is first read. All values have the unit of
`gptx.runs.metrics` without its scale.
"""

from dataclasses import dataclass
from enum import StrEnum

from gptx.statistics.factorial import Factorial
from gptx.statistics.reach import Reach
from gptx.statistics.text import TextDifference, TextVerdict


@dataclass(frozen=True, kw_only=True)
class GridEffects:
    """Arms that form a grid of two or more factors.

    Attributes:
        factors: the axes or config keys that differ.
        references: the base level of each factor: that of the baseline.
        missing: the combinations of levels without a finished run.
        effects: main effects, simple effects, interactions and panels; intervals hold together within each family.
    """

    factors: tuple[str, ...]
    references: tuple[str, ...]
    missing: tuple[tuple[str, ...], ...]
    effects: Factorial


@dataclass(frozen=True, kw_only=True)
class ArmTextDoubt:
    """How much of an arm's difference from the baseline is due to the choice of the validation text.

    Attributes:
        difference: over the units of the report half; None if it is unknown.
        verdict: that of the seeds with this doubt; None if the difference is unknown.
        problem: why it is unknown; else empty.
    """

    arm: str
    difference: TextDifference | None = None
    verdict: TextVerdict | None = None
    problem: str = ""


class CostUnit(StrEnum):
    """What training costs, on the axis of a curve."""

    STEPS = "steps"
    TOKENS = "tokens"
    FLOPS = "FLOPs"
    SECONDS = "seconds"


@dataclass(frozen=True, kw_only=True)
class ArmReach:
    """How much of a cost an arm needs to reach the baseline's final validation loss.

    Attributes:
        reach: the ratio to what the baseline needs; None if it is unknown.
        problem: why it is unknown; else empty.
    """

    arm: str
    unit: CostUnit
    reach: Reach | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class StrategyDifference:
    """Two runs of one seed that differ in the strategy only.

    Attributes:
        first: the largest relative difference of their training losses in the first 20 steps; NaN if both have none.
        at: the step of that difference.
        steps: how many of these steps both runs recorded.
        fp32: whether both runs compute in float32, where the difference has to be rounding.
    """

    arm: str
    reference: str
    seed: str
    first: float
    at: int
    steps: int
    fp32: bool


@dataclass(frozen=True, kw_only=True)
class StrategyCheck:
    """Whether the strategy changes the result, which it must not. Empty unless arms differ in the strategy only.

    Attributes:
        differences: one for each such pair of runs.
        suspected: one line for each suspected bug.
    """

    differences: tuple[StrategyDifference, ...] = ()
    suspected: tuple[str, ...] = ()


class FrontPlace(StrEnum):
    """The place of an arm relative to the Pareto front of the metric and one cost."""

    ON = "on the front"
    """No other arm has a better mean at the same or a lower cost."""
    NEAR = "within the noise of it"
    """Such an arm exists, but none that is surely better (by the intervals of all pairs)."""
    OFF = "off the front"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """The mean of one cost of an arm, and its place relative to the Pareto front of the metric and this cost.

    Attributes:
        key: of `gptx.runs.metrics`: tokens_per_s, peak_memory_bytes, flops_per_token or kv_bytes_per_token.
        cost: NaN if it was not measured.
        value: the mean of the compared metric.
        problem: why the costs of the arms do not compare; else empty.
    """

    arm: str
    key: str
    cost: float
    value: float
    place: FrontPlace
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ArmCurve:
    """The validation losses of an arm during training, over the steps at which all of its runs were validated.

    Attributes:
        steps, tokens, flops, seconds: the cost until each validation, of shape (validations,), averaged over the runs;
            NaN if unknown. ``seconds`` is empty if the runs shared the machine.
        mean, low, high: of the runs' losses: mean, lowest and highest, of shape (validations,).
        n: the number of runs.
    """

    arm: str
    steps: tuple[float, ...]
    tokens: tuple[float, ...]
    flops: tuple[float, ...]
    seconds: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int
