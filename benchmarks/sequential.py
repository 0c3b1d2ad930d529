"""Simulations of `sweep.seeds=auto`: does it keep its level, and how many runs does it save?

Results are drawn from distributions with a known truth, and decided as in `gptx.statistics.sequential`. One baseline is
compared with three arms. The first table counts the simulations in which an arm without an effect is called better or
worse (margin 0, so that no arm stops as equivalent), also for two other estimates of the spread. The second compares
with a fixed number of seeds: paired t intervals with Bonferroni, and as many seeds as give a right verdict as often if
all true differences are 1 margin ("fixed"), or if the truth of the row were known beforehand.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.report import markdown_table
from gptx.cli import Parser, exit_code
from gptx.statistics.sequential import SequentialDesign
from gptx.terminal import echo

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
ARMS = ["baseline", "a", "b", "c"]
DESIGN = SequentialDesign(min_seeds=5, max_seeds=20, margin=0.0)
MOST_FIXED = 40  # seeds of a fixed design


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape)


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """t with 3 degrees of freedom."""
    return rng.standard_t(3, shape)


def outliers(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal; one run in 20 has ten times the spread."""
    return normal(rng, shape) * np.where(rng.random(shape) < 0.05, 10, 1)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Lognormal, with mean 0."""
    return np.exp(normal(rng, shape)) - math.exp(0.5)


@dataclass(frozen=True)
class Truth:
    """What the results of a simulation are drawn from: arm effects, and the spread of each arm, the baseline first."""

    name: str
    draw: Draw = normal
    spread: tuple[float, ...] = (1, 1, 1, 1)
    effects: tuple[float, ...] = (0, 0, 0)

    def draws(self, simulations: int, seeds: int, random_seed: int = 0) -> Array:
        """Results (simulations, arms, seeds)."""
        rng = np.random.default_rng(random_seed)
        noise = self.draw(rng, (simulations, len(self.spread), seeds)) * np.array(self.spread)[:, None]
        return noise + np.array([0, *self.effects])[:, None]


NO_EFFECT = (
    Truth("normal, equal spread"),
    Truth("normal, one arm with 3 times the spread", spread=(1, 3, 1, 1)),
    Truth("normal, the baseline with 3 times the spread", spread=(3, 1, 1, 1)),
    Truth("heavy tails: t with 3 degrees of freedom", heavy),
    Truth("outliers: 1 run in 20 with 10 times the spread", outliers),
    Truth("skewed: lognormal, all arms alike", skewed),
    Truth("skewed: lognormal, the baseline with 3 times the spread", skewed, (3, 1, 1, 1)),
)
EFFECTS = {
    "0": (0, 0, 0),
    "1/2 margin": (0.5, 0.5, 0.5),
    "1 margin": (1, 1, 1),
    "2 margins": (2, 2, 2),
    "4 margins": (4, 4, 4),
    "10 margins": (10, 10, 10),
    "0, 1 and 10 margins": (0, 1, 10),
}
DESIGNS = (  # and the standard deviation of a difference between two results of one seed, in margins
    (replace(DESIGN, margin=1.0), 1.0),
    (replace(DESIGN, min_seeds=3, max_seeds=10, margin=1.0), 0.7),
)


@dataclass(frozen=True)
class Outcomes:
    """The end of simulated sweeps: which verdict each arm got (simulations, arms), and with how many seeds."""

    equivalent: Bools
    worse: Bools
    better: Bools
    seeds: NDArray[np.int64]

    @property
    def decided(self) -> Bools:
        return self.equivalent | self.worse | self.better

    def right(self, truth: Truth, margin: float) -> Bools:
        """Whether the verdict is true. A small difference may be called equivalent or by its sign."""
        effects = np.array(truth.effects)
        signed = self.worse & (effects > 0) | self.better & (effects < 0)
        return self.equivalent & (np.abs(effects) <= margin) | signed


def outcomes(draws: Array, looks: Sequence[int], limits: Sequence[float], margin: float) -> Outcomes:
    """What `gptx.statistics.sequential.follow_seeds` decides, for many simulations at once.

    Args:
        draws: results (simulations, arms, seeds), the baseline first.
        looks: the seeds at each look; ``limits``: the limits on abs(t).
    """
    differences, n = draws[:, 1:] - draws[:, :1], np.array(looks)
    sums, squares = (np.cumsum(differences**power, -1)[..., n - 1] for power in (1, 2))
    mean = sums / n
    half = np.array(limits) * np.sqrt(np.maximum(squares - n * mean**2, 0) / (n - 1) / n)
    low, high = mean - half, mean + half
    equivalent = (-margin <= low) & (high <= margin) & (margin > 0)
    worse, better = ~equivalent & (low > 0), ~equivalent & (high < 0)
    decided = equivalent | worse | better
    first = np.where(decided.any(-1), decided.argmax(-1), len(n) - 1)

    def at_first(verdict: Bools) -> Bools:
        return np.take_along_axis(verdict, first[..., None], -1)[..., 0]

    return Outcomes(at_first(equivalent), at_first(worse), at_first(better), n[first])


def sequential(draws: Array, design: SequentialDesign) -> Outcomes:
    """The end of sweeps with sweep.seeds=auto."""
    looks = range(design.min_seeds, design.max_seeds + 1)
    return outcomes(draws, looks, design.limits(draws.shape[1] - 1), design.margin)


def fixed(draws: Array, seeds: int, design: SequentialDesign) -> Outcomes:
    """The end of sweeps with a fixed number of seeds: paired t intervals with Bonferroni."""
    limit = student.isf((1 - design.level) / (draws.shape[1] - 1) / 2, seeds - 1)
    return outcomes(draws, [seeds], [limit], design.margin)


def false_alarms(truth: Truth, design: SequentialDesign, simulations: int) -> float:
    """How often any arm without an effect is called better or worse."""
    found = sequential(truth.draws(simulations, design.max_seeds), replace(design, margin=0.0))
    return float((found.worse | found.better).any(1).mean())


@dataclass(frozen=True)
class Savings:
    """Shares of arms with a right and a wrong verdict, mean runs of a sweep, and the seeds with which a fixed design is
    right as often; None: more than MOST_FIXED."""

    right: float
    wrong: float
    runs: float
    fixed_seeds: int | None


def savings(truth: Truth, design: SequentialDesign, simulations: int) -> Savings:
    """What the design decides and needs if this is the truth."""
    found = sequential(truth.draws(simulations, design.max_seeds), design)
    right = found.right(truth, design.margin)
    runs = found.seeds.sum(1) + found.seeds.max(1)
    power, wrong = float(right.mean()), float((found.decided & ~right).mean())
    return Savings(power, wrong, float(runs.mean()), fixed_seeds(truth, design, power, simulations))


def fixed_seeds(truth: Truth, design: SequentialDesign, power: float, simulations: int) -> int | None:
    """The fewest seeds with which the fixed design is right as often; None: more than MOST_FIXED."""
    draws = truth.draws(simulations, MOST_FIXED, random_seed=1)
    powers = ((n, fixed(draws, n, design).right(truth, design.margin).mean()) for n in range(2, MOST_FIXED + 1))
    return next((n for n, found in powers if found >= power), None)


class OtherSpread:
    """The same design with a spread that is not estimated from all seeds of an arm. Its limits are simulated.

    Args:
        pooled: the spread is the residual of the linear model (arm + seed) over the first seeds; else each arm's own.
    """

    def __init__(self, design: SequentialDesign, pooled: bool, simulations: int = 400_000) -> None:
        self.design, self.pooled = design, pooled
        self.looks = np.arange(design.min_seeds, design.max_seeds + 1)
        rng = np.random.default_rng(2)
        df = (design.min_seeds - 1) * (len(ARMS) - 1 if pooled else 1)
        alpha = (1 - design.level) / (len(ARMS) - 1)
        differences = rng.standard_normal((simulations, design.max_seeds), dtype=np.float32).astype(float)
        own = differences[:, : design.min_seeds].std(-1, ddof=1)
        spread = np.sqrt(rng.chisquare(df, simulations) / df) if pooled else own
        self.limits = self._spend(np.abs(self._paths(differences) / spread[:, None]), alpha)

    def _paths(self, differences: Array) -> Array:
        """sqrt(n) times the mean of the first n differences, at each look n."""
        return np.cumsum(differences, -1)[..., self.design.min_seeds - 1 :] / np.sqrt(self.looks)

    def _spend(self, paths: Array, alpha: float) -> Array:
        """The limit at each look with which the crossings so far are the spent part of the level."""
        limits, alive, crossed = [], np.ones(len(paths), bool), 0
        for look, n in enumerate(self.looks):
            spent = self.design.spending.spent(alpha, n / self.design.max_seeds)
            new = round(spent * len(paths)) - crossed
            at_look = np.sort(np.where(alive, paths[:, look], -1))
            limits.append(at_look[-new] if new > 0 else np.inf)
            alive &= paths[:, look] < limits[-1]
            crossed = len(paths) - int(alive.sum())
        return np.array(limits)

    def false_alarms(self, draws: Array) -> float:
        """How often any arm crosses a limit, in results (simulations, arms, seeds) without effects."""
        differences = draws[:, 1:] - draws[:, :1]
        first = draws[..., : self.design.min_seeds]
        spread = _pooled(first)[:, None] if self.pooled else (first[:, 1:] - first[:, :1]).std(-1, ddof=1)
        crossed = np.abs(self._paths(differences) / spread[..., None]) >= self.limits
        return float(crossed.any((1, 2)).mean())


def _pooled(first: Array) -> Array:
    """The standard deviation of a difference by the residual of arm + seed, of results (simulations, arms, seeds)."""
    residual = first - first.mean(1, keepdims=True) - first.mean(2, keepdims=True) + first.mean((1, 2), keepdims=True)
    df = (first.shape[1] - 1) * (first.shape[2] - 1)
    return np.sqrt(2 * (residual**2).sum((1, 2)) / df)


def level_table(simulations: int) -> str:
    """Family-wise false verdicts without an effect."""
    others = [OtherSpread(DESIGN, pooled=False), OtherSpread(DESIGN, pooled=True)]
    rows = []
    for truth in NO_EFFECT:
        draws = truth.draws(simulations, DESIGN.max_seeds)
        rates = [false_alarms(truth, DESIGN, simulations), *(other.false_alarms(draws) for other in others)]
        rows.append((truth.name, *(f"{rate:.1%}" for rate in rates)))
    return markdown_table(("no effect", "all seeds (gptx)", "first 5 seeds", "first 5 seeds, pooled"), rows, left=1)


def savings_table(simulations: int) -> str:
    """Runs against two fixed designs: of equal power at differences of 1 margin, and of equal power at each truth."""
    rows = []
    for design, spread in DESIGNS:
        found = {name: savings(_truth(name, spread), design, simulations) for name in EFFECTS}
        planned = (found["1 margin"].fixed_seeds or MOST_FIXED) * len(ARMS)
        for name, one in found.items():
            shares = f"{one.right:.1%}", f"{one.wrong:.1%}", f"{one.runs:.1f}"
            here = str(one.fixed_seeds * len(ARMS)) if one.fixed_seeds else f"more than {MOST_FIXED * len(ARMS)}"
            seeds = f"{design.min_seeds} to {design.max_seeds}"
            rows.append((seeds, name, *shares, str(planned), f"{1 - one.runs / planned:.0%}", here))
    head = ("seeds", "true differences", "right", "wrong", "runs", "fixed", "saved", "fixed, truth known")
    return markdown_table(head, rows)


def _truth(name: str, spread: float) -> Truth:
    return Truth(name, spread=(spread / math.sqrt(2),) * len(ARMS), effects=EFFECTS[name])


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("python -m benchmarks.sequential", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--simulations", type=int, default=2000, metavar="N", help="of each row (default %(default)s)")

    def run() -> int:
        simulations = parser.parse_args(argv).simulations
        echo(level_table(simulations), "", savings_table(simulations))
        return 0

    return exit_code(run)


if __name__ == "__main__":
    raise SystemExit(main())
