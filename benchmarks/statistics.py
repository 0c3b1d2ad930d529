"""Comparisons with known truth, simulated: false positives, coverage, power and false equivalence of gptx.statistics.

A comparison has a baseline and three other arms (``--arms``), which share seeds. A run's value is an effect of its arm,
a normal effect of its seed with standard deviation 2, and an error with standard deviation 1, the unit of all
differences. In one half of the simulations, no arm differs. In the other half, the last arm but one differs by 1
(small) and the last by 2.5 (large, equal to the margin). The simulations run the code that compares real runs,
`ContrastFamily.intervals`, including the rule for unequal spread.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptx.cli import Parser, exit_code
from gptx.statistics.block_model import BlockModel, Bools, Floats
from gptx.statistics.contrast_intervals import ContrastFamily, ContrastIntervals
from gptx.statistics.power import pooled_plan
from gptx.terminal import write_data

SEED_DEVIATION, SMALL, MARGIN = 2.0, 1.0, 2.5
PATTERNS = 20
EXAMPLES = """examples:
  python -m benchmarks.statistics                        the table of docs/statistics.md
  python -m benchmarks.statistics --simulations 200      a rough one
"""


@dataclass(frozen=True)
class Scenario:
    """How the errors of the runs are distributed."""

    name: str
    baseline_deviation: float = 1.0
    arm_deviation: float = 1.0
    """Standard deviation of the last arm, the one with the large difference; all others have 1."""
    heavy_tails: bool = False
    missing: float = 0.0
    """Probability that a run is missing."""

    def errors(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
        """Errors of ``shape``, (arms, seeds, simulations). The t distribution is scaled to variance 1."""
        errors = rng.standard_t(3, shape) / np.sqrt(3) if self.heavy_tails else rng.standard_normal(shape)
        errors[0] *= self.baseline_deviation
        errors[-1] *= self.arm_deviation
        return np.asarray(errors)


SCENARIOS = (
    Scenario("equal spread"),
    Scenario("heavy tails (t, 3 df)", heavy_tails=True),
    Scenario("15 % of runs missing", missing=0.15),
    Scenario("one arm varies 2 times as much", arm_deviation=2),
    Scenario("one arm varies 3 times as much", arm_deviation=3),
    Scenario("the baseline varies 2 times as much", baseline_deviation=2),
    Scenario("the baseline varies 3 times as much", baseline_deviation=3),
)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Fractions of the simulations of one scenario."""

    scenario: Scenario
    seeds: int
    simulations: int
    false_positives: float
    """No arm differs, but an interval excludes zero."""
    unpooled: float
    """The rule finds the spread unequal (no arm differs)."""
    coverage: float
    """All intervals contain the true differences (arms differ)."""
    power: tuple[float, float]
    """The interval of the small, and of the large difference lies above zero."""
    predicted: tuple[float, float]
    """The same by `gptx.statistics.power`, for equal spread and complete runs."""
    false_equivalences: float
    """The arm whose difference equals the margin is found equivalent."""

    @property
    def simulation_error(self) -> float:
        """The standard error of a rate of 5 %."""
        return float(np.sqrt(0.05 * 0.95 / self.simulations))


def simulate(scenario: Scenario, seeds: int, simulations: int, rng_seed: int = 0, arms: int = 4) -> Rates:
    """Simulates one scenario; ``simulations`` comparisons without, and as many with differences."""
    rng = np.random.default_rng([rng_seed, seeds, SCENARIOS.index(scenario)])
    patterns = PATTERNS if scenario.missing else 1
    effects = np.concatenate([np.zeros(arms - 2), [SMALL, MARGIN]])
    families = [_family(scenario, arms, seeds, rng) for _ in range(patterns)]
    null = [_compare(f, scenario, 0 * effects, simulations // patterns, rng) for f in families]
    real = [_compare(f, scenario, effects, simulations // patterns, rng) for f in families]
    low, high = (np.hstack([r.estimates + sign * r.half_widths for r in real]) for sign in (-1, 1))
    truth = effects[1:, None]
    plan = pooled_plan(1.0, arms)
    return Rates(
        scenario=scenario,
        seeds=seeds,
        simulations=simulations // patterns * patterns,
        false_positives=float(np.hstack([(np.abs(r.estimates) > r.half_widths).any(axis=0) for r in null]).mean()),
        unpooled=float(np.hstack([r.unpooled for r in null]).mean()),
        coverage=float(((low <= truth) & (truth <= high)).all(axis=0).mean()),
        power=(float((low[-2] > 0).mean()), float((low[-1] > 0).mean())),
        predicted=(plan.different(SMALL, 0.0, seeds), plan.different(MARGIN, 0.0, seeds)),
        false_equivalences=float(((low[-1] >= -MARGIN) & (high[-1] <= MARGIN)).mean()),
    )


def markdown(rates: Sequence[Rates]) -> str:
    """The table of docs/statistics.md."""
    head = [
        "runs",
        "seeds",
        "false positives",
        "not pooled",
        "coverage",
        "small found",
        "large found",
        "false equivalence",
    ]
    rows = [
        [
            r.scenario.name,
            str(r.seeds),
            f"{r.false_positives:.1%}",
            f"{r.unpooled:.0%}",
            f"{r.coverage:.1%}",
            *(f"{found:.0%} ({predicted:.0%})" for found, predicted in zip(r.power, r.predicted, strict=True)),
            f"{r.false_equivalences:.1%}",
        ]
        for r in rates
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.statistics", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--simulations", type=int, default=2000, metavar="N", help="per half (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10], metavar="N", help="seeds per arm")
    parser.add_argument("--arms", type=int, default=4, metavar="N", help="with the baseline (default %(default)s)")
    parser.add_argument("--rng-seed", type=int, default=0, metavar="N", help="of the simulations (default %(default)s)")
    return parser


def _bench(args: argparse.Namespace) -> int:
    rates = [simulate(s, seeds, args.simulations, args.rng_seed, args.arms) for s in SCENARIOS for seeds in args.seeds]
    write_data(markdown(rates) + "\n")
    return 0


def _family(scenario: Scenario, arms: int, seeds: int, rng: np.random.Generator) -> ContrastFamily:
    """The design, with runs missing at random so that each arm shares two seeds with the baseline."""
    weights = np.eye(arms)[1:] - np.eye(arms)[0]
    while True:
        present: Bools = rng.random((arms, seeds)) >= scenario.missing
        family = ContrastFamily(BlockModel.of_present(present), weights)
        if min(family.complete_seeds) >= 2:
            return family


def _compare(
    family: ContrastFamily, scenario: Scenario, effects: Floats, simulations: int, rng: np.random.Generator
) -> ContrastIntervals:
    shape = (family.model.arms, family.model.seeds, simulations)
    blocks = rng.normal(0, SEED_DEVIATION, (1, *shape[1:]))
    values = effects[:, None, None] + blocks + scenario.errors(rng, shape)
    return family.intervals(values[family.model.arm, family.model.seed])


if __name__ == "__main__":
    sys.exit(main())
