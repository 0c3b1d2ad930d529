"""The space of a search: the overrides of the command line that have several values, in Hydra's own syntax."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from gptx.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial

EXAMPLE = "optim.lr=tag(log,interval(1e-4,1e-2)) attention=mha,gqa 'model.n_layer=range(1,9)'"


@dataclass(frozen=True)
class Choices:
    """A dimension with a list of values: ``attention=mha,gqa``."""

    key: str
    values: tuple[str, ...]

    @property
    def examples(self) -> list[str]:
        """Example overrides of this dimension: one for each value."""
        return [f"{self.key}={value}" for value in self.values]

    def suggest(self, trial: "Trial") -> str:
        """The override that a trial tries."""
        return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"

    def __str__(self) -> str:
        return ", ".join(self.values)


@dataclass(frozen=True)
class NumberRange:
    """A dimension of numbers: ``optim.lr=tag(log,interval(1e-4,1e-2))``. Both ends are included. If both are integers,
    only integers are tried."""

    key: str
    low: float
    high: float
    step: float | None
    log: bool

    @property
    def examples(self) -> list[str]:
        """Example overrides of this dimension: both ends of the interval, and a number between them."""
        between = [] if self.step or isinstance(self.low, int) else [f"{self.key}={(self.low + self.high) / 3:.4g}"]
        return [f"{self.key}={self.low}", *between, f"{self.key}={self.high}"]

    def suggest(self, trial: "Trial") -> str:
        """The override that a trial tries. Real numbers are rounded to four digits, so that they are easy to type."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = int(self.step or 1)
            return f"{self.key}={trial.suggest_int(self.key, self.low, self.high, step=step, log=self.log)}"
        value = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return f"{self.key}={value}" if self.step else f"{self.key}={value:.4g}"

    def __str__(self) -> str:
        steps = f", in steps of {self.step:g}" if self.step and self.step != 1 else ""
        return f"{self.low:g} to {self.high:g}{steps}{', log scale' * self.log}"


@dataclass(frozen=True)
class Space:
    """The points that a search may try.

    Attributes:
        fixed: the overrides that all trials have.
        dimensions: the keys that are searched.
    """

    fixed: list[str]
    dimensions: list[Choices | NumberRange]

    @classmethod
    def of(cls, parsed: Sequence[Override]) -> "Space":
        """The space of a command line.

        Raises:
            ConfigError: there is nothing to search, or a key that cannot be searched.
        """
        dimensions = {one.get_key_element(): _dimension(one) for one in parsed if one.is_sweep_override()}
        if not dimensions:
            raise ConfigError(f"nothing to search: expected at least one key with several values, e.g. {EXAMPLE}")
        return cls([str(one.input_line) for one in parsed if not one.is_sweep_override()], list(dimensions.values()))

    def examples(self) -> list[list[str]]:
        """The overrides of a few points that represent the space: each example of a dimension, combined with the first
        example of every other one. The first point has all first examples."""
        first = [dimension.examples[0] for dimension in self.dimensions]
        return [
            [*self.fixed, *first[:i], example, *first[i + 1 :]]
            for i, dimension in enumerate(self.dimensions)
            for example in dimension.examples
        ]

    def __str__(self) -> str:
        return "\n".join(f"  {dimension.key}: {dimension}" for dimension in self.dimensions)


def _dimension(override: Override) -> Choices | NumberRange:
    key, sweep, given = override.get_key_element(), override.value(), override.input_line
    tags: set[str] = getattr(sweep, "tags", set())
    if tags - {"log"} or (tags and not isinstance(sweep, IntervalSweep)):
        raise ConfigError(f"{given}: a search supports only the tag log of intervals: tag(log,interval(1e-4,1e-2))")
    if getattr(sweep, "shuffle", False):
        raise ConfigError(f"{given}: a search has no order to shuffle; remove shuffle")
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None and sweep.end is not None
        if not sweep.start < sweep.end or (tags and sweep.start <= 0):
            raise ConfigError(f"{given}: expected a smaller number, then a larger one{', both above 0' * bool(tags)}")
        return NumberRange(key, sweep.start, sweep.end, None, bool(tags))
    if isinstance(sweep, RangeSweep) and (values := sorted(sweep.range())):
        return NumberRange(key, values[0], values[-1], abs(sweep.step), False)
    if not (choices := tuple(dict.fromkeys(override.sweep_string_iterator()))):
        raise ConfigError(f"{given} has no values: its glob matches no option, or its range is empty")
    return Choices(key, choices)
