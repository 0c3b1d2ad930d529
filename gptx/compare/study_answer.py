"""Whether what a study expects was found: each expectation as a difference of arms with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptx.compare.arms import Arm
from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import number, unit
from gptx.compare.metric_choice import is_val_loss
from gptx.config.expectations import Expectation
from gptx.statistics.block_model import BlockModel
from gptx.statistics.contrast_intervals import ContrastFamily
from gptx.statistics.run_table import RunTable
from gptx.statistics.verdict import Interval, Verdict, judge

_OUTCOMES = {
    ("<", Verdict.BETTER): "yes",
    ("<", Verdict.WORSE): "no, the reverse",
    ("<", Verdict.EQUIVALENT): "no, the losses are equal within the margin",
    ("~", Verdict.EQUIVALENT): "yes",
    ("~", Verdict.BETTER): "no, the loss is lower",
    ("~", Verdict.WORSE): "no, the loss is higher",
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of an expectation.

    Attributes:
        interval: of the difference in loss, over all pairs of arms that differ in nothing else; None: no interval.
        verdict: about the left arm.
        problem: why nothing is known; else empty.
    """

    expectation: Expectation
    interval: Interval | None = None
    verdict: Verdict = Verdict.UNDECIDED
    problem: str = ""

    @property
    def outcome(self) -> str:
        """Whether it is as expected, in words; ``undecided`` if these runs cannot tell."""
        return _OUTCOMES.get(
            (self.expectation.relation, self.verdict), f"undecided{f' ({self.problem})' * bool(self.problem)}"
        )


def answers(comparison: Comparison) -> tuple[Answer, ...]:
    """One for each expectation of the study. The intervals are simultaneous; only validation losses are expected."""
    expected = comparison.study.expectations
    if comparison.baseline is None or not is_val_loss(comparison.metric) or not expected:
        return ()
    arms = sorted([comparison.baseline, *(one.arm for one in comparison.arms)], key=lambda arm: arm.name)
    pairs = [_pairs(arms, one) for one in expected]
    known = [i for i, found in enumerate(pairs) if found]
    table = RunTable.of(comparison.values)
    weights = np.zeros((len(known), len(arms)))
    for row, i in enumerate(known):
        for left, right in pairs[i]:
            weights[row, arms.index(left)] += 1 / len(pairs[i])
            weights[row, arms.index(right)] -= 1 / len(pairs[i])
    found = dict(zip(known, _intervals(table, weights), strict=True))
    return tuple(_answer(one, pairs[i], found.get(i), comparison.margin) for i, one in enumerate(expected))


def _pairs(arms: Sequence[Arm], expected: Expectation) -> list[tuple[Arm, Arm]]:
    """The arms with the values of each side that agree in everything else, or else in all other options: each arm may
    have its own learning rate (``sweep.lr``)."""
    left = [arm for arm in arms if all(arm.has(key, value) for key, value in expected.arm.items())]
    right = [arm for arm in arms if all(arm.has(key, value) for key, value in expected.other.items())]
    exact = [(one, other) for one in left for other in right if _rest(one, expected) == _rest(other, expected)]
    return exact or [
        (one, other) for one in left for other in right if _options(one, expected) == _options(other, expected)
    ]


def _rest(arm: Arm, expected: Expectation) -> dict[str, str]:
    """The values that an expectation does not compare. Keys of an option that it compares, such as window.size of
    window=sliding, belong to that option."""
    return {
        key: value
        for key, value in arm.values.items()
        if key not in expected.arm and key.partition(".")[0] not in expected.arm
    }


def _options(arm: Arm, expected: Expectation) -> dict[str, str]:
    return {key: value for key, value in _rest(arm, expected).items() if "." not in key}


def _intervals(table: RunTable, weights: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> list[Interval | None]:
    model = BlockModel.of_present(table.finite)
    if not len(weights) or not model.df:
        return [None] * len(weights)
    found = ContrastFamily(model, weights).intervals(table.values[table.finite][:, None])
    pairs = zip(found.estimates[:, 0], found.half_widths[:, 0], strict=True)
    return [
        None if np.isnan(half) else Interval(estimate=float(x), low=float(x - half), high=float(x + half))
        for x, half in pairs
    ]


def _answer(expected: Expectation, pairs: list[tuple[Arm, Arm]], interval: Interval | None, margin: float) -> Answer:
    if not pairs:
        return Answer(expectation=expected, problem="no two such arms have finished")
    if any(row.diverged for pair in pairs for arm in pair for row in (*arm.rows, *arm.diverged)):
        return Answer(expectation=expected, interval=interval, problem="a run diverged")
    if interval is None:
        return Answer(expectation=expected, problem="it takes two seeds")
    return Answer(expectation=expected, interval=interval, verdict=judge(interval, margin))


def lines(comparison: Comparison) -> list[str]:
    """The question of the study, what it expects, and what came of it."""
    study, found = comparison.study, answers(comparison)
    if not study.question:
        return []
    out = [f"question: {study.question}", f"expected: {study.expected}"]
    if not found:
        answer = _why_no_answer(comparison) or study.answer
        return [*out, f"answer: {answer}"] if answer else out
    outcomes = [answer.outcome.partition(" ")[0].rstrip(",") for answer in found]
    parts = [f"{outcomes.count(word)} {text}" for word, text in _COUNTED.items() if outcomes.count(word)]
    return [
        *out,
        f"found: of {len(found)} expected comparisons, {', '.join(parts)}",
        *(_line(comparison, one) for one in found),
    ]


def _why_no_answer(comparison: Comparison) -> str:
    if not comparison.study.expectations:
        return ""
    if comparison.baseline is None:
        return "none, because no arms are compared"
    return f"none, because the study expects differences in val loss, and these are in {comparison.metric.title}"


_COUNTED = {"yes": "as expected", "no": "not as expected", "undecided": "undecided"}


def _line(comparison: Comparison, answer: Answer) -> str:
    metric, found = comparison.metric, answer.interval
    figures = ""
    if found:
        low, high = (number(metric, value, signed=True) for value in (found.low, found.high))
        figures = f": {number(metric, found.estimate, signed=True)} ({low} to {high}){unit(metric)}"
    return f"  {answer.expectation}: {answer.outcome}{figures}"
