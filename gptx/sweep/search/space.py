"""The space of a search: the words of the command line that have several values, in Hydra's own syntax."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from gptx.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial

EXAMPLE = "optim.lr=tag(log,interval(1e-4,1e-2)) attention=mha,gqa 'model.n_layer=range(1,9)'"


@dataclass(frozen=True)
class Choice:
    """``attention=mha,gqa``."""

    key: str
    values: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """All there are."""
        return [f"{self.key}={value}" for value in self.values]

    def suggest(self, trial: "Trial") -> str:
        """The word that a trial tries."""
        return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"

    def __str__(self) -> str:
        return ", ".join(self.values)


@dataclass(frozen=True)
class Number:
    """``optim.lr=tag(log,interval(1e-4,1e-2))``; both ends belong to it. Of whole numbers where both ends are."""

    key: str
    low: float
    high: float
    step: float | None
    log: bool

    @property
    def words(self) -> list[str]:
        """The ends, and something between them."""
        between = [] if self.step or isinstance(self.low, int) else [f"{self.key}={(self.low + self.high) / 3:.4g}"]
        return [f"{self.key}={self.low}", *between, f"{self.key}={self.high}"]

    def suggest(self, trial: "Trial") -> str:
        """The word that a trial tries: of an interval to four digits, which can be read and typed again."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return (
                f"{self.key}={trial.suggest_int(self.key, self.low, self.high, step=int(self.step or 1), log=self.log)}"
            )
        value = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return f"{self.key}={value}" if self.step else f"{self.key}={value:.4g}"

    def __str__(self) -> str:
        steps = f", in steps of {self.step:g}" if self.step and self.step != 1 else ""
        return f"{self.low:g} to {self.high:g}{steps}{', log' * self.log}"


@dataclass(frozen=True)
class Space:
    """``fixed``: the words that all trials share; ``axes``: what is searched."""

    fixed: list[str]
    axes: list[Choice | Number]

    @classmethod
    def of(cls, parsed: Sequence[Override]) -> "Space":
        """A command line's.

        Raises:
            ConfigError: there is nothing to search, or it cannot be.
        """
        axes = {one.get_key_element(): _axis(one) for one in parsed if one.is_sweep_override()}
        if not axes:
            raise ConfigError(f"nothing to search: expected at least one key with several values, e.g. {EXAMPLE}")
        return cls([str(one.input_line) for one in parsed if not one.is_sweep_override()], list(axes.values()))

    def corners(self) -> list[list[str]]:
        """Every axis's words, each with the first ones of the others. The first is that of all first ones."""
        first = [axis.words[0] for axis in self.axes]
        return [
            [*self.fixed, *first[:i], word, *first[i + 1 :]] for i, axis in enumerate(self.axes) for word in axis.words
        ]

    def __str__(self) -> str:
        return "\n".join(f"  {axis.key}: {axis}" for axis in self.axes)


def _axis(override: Override) -> Choice | Number:
    key, sweep, given = override.get_key_element(), override.value(), override.input_line
    tags: set[str] = getattr(sweep, "tags", set())
    if tags - {"log"} or (tags and not isinstance(sweep, IntervalSweep)):
        raise ConfigError(f"{given}: the only tag of a search is log, of an interval: tag(log,interval(1e-4,1e-2))")
    if getattr(sweep, "shuffle", False):
        raise ConfigError(f"{given}: a search has no order that could be shuffled; leave shuffle out")
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None and sweep.end is not None
        if not sweep.start < sweep.end or (tags and sweep.start <= 0):
            raise ConfigError(f"{given}: expected a smaller number, then a larger one{', both above 0' * bool(tags)}")
        return Number(key, sweep.start, sweep.end, None, bool(tags))
    if isinstance(sweep, RangeSweep) and (values := sorted(sweep.range())):
        return Number(key, values[0], values[-1], abs(sweep.step), False)
    if not (choices := tuple(dict.fromkeys(override.sweep_string_iterator()))):
        raise ConfigError(f"{given}: there is no such value to choose from")
    return Choice(key, choices)
