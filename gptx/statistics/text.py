"""The finite validation text as a source of doubt, beside the seeds.

The difference of two arms in loss per token is the sum of the differences over documents, divided by the tokens.
Documents are resampled, together for both arms, so what makes a document hard cancels. Neighbouring rows of a long
text depend on each other, so consecutive documents form blocks that are resampled whole (Kuensch 1989, without
overlap): at most 512.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from gptx.errors import GptxError
from gptx.statistics.block_model import Floats
from gptx.statistics.bootstrap import bca_ratios
from gptx.statistics.verdict import Interval, Verdict

MOST_BLOCKS = 512
FEWEST_BLOCKS = 8
RESAMPLES = 9999


class Remedy(StrEnum):
    """What would make a difference surer."""

    NOTHING = "decided"
    SEEDS = "more seeds"
    TEXT = "more text"
    BOTH = "more seeds and more text"


@dataclass(frozen=True, kw_only=True)
class TextDifference:
    """The difference of two arms in loss per token over the documents of one validation text."""

    estimate: float
    interval: Interval | None
    """BCa bootstrap over blocks of documents; none with fewer than 8 blocks or equal differences."""
    error: float
    """Bootstrap standard error; NaN if there is no interval."""
    blocks: int


@dataclass(frozen=True, kw_only=True)
class TextVerdict:
    """A verdict of the seeds together with the doubt that the text adds."""

    verdict: Verdict
    only_on_this_text: bool
    remedy: Remedy

    def __str__(self) -> str:
        return f"{self.verdict} on this text" if self.only_on_this_text else str(self.verdict)


def text_difference(arm: Floats, baseline: Floats, tokens: Floats, *, level: float = 0.95) -> TextDifference:
    """The difference ``arm - baseline`` per token with its interval over the text.

    ``arm`` and ``baseline``: the loss summed over each document's tokens, of shape (documents,) or (seeds,
    documents), which is averaged over seeds; ``tokens``: the tokens of each document, of shape (documents,).
    Documents are in the order of the text.
    """
    differences = np.atleast_2d(arm).mean(axis=0) - np.atleast_2d(baseline).mean(axis=0)
    return text_differences(differences[None], tokens, level=level)[0]


def text_differences(differences: Floats, tokens: Floats, *, level: float = 0.95) -> list[TextDifference]:
    """`text_difference` for several arms at once, with the same resamples: ``differences`` from the baseline, averaged
    over seeds and summed over each document's tokens, of shape (arms, documents)."""
    if differences.shape[1:] != tokens.shape:
        raise GptxError(
            f"losses of {differences.shape[1:]} documents and tokens of {tokens.shape}; expected equal shapes"
        )
    starts = np.linspace(0, len(tokens), min(len(tokens), MOST_BLOCKS), endpoint=False).astype(int)
    sums, counts = np.add.reduceat(differences, starts, axis=1), np.add.reduceat(tokens, starts)
    estimates = sums.sum(axis=1) / counts.sum()
    varied = (np.ptp(sums / counts, axis=1) >= 1e-12) & (len(starts) >= FEWEST_BLOCKS)
    known = iter(bca_ratios(sums[varied], counts, RESAMPLES, level) if varied.any() else ())
    out = []
    for estimate, varies in zip(map(float, estimates), varied, strict=True):
        low, high, error = next(known) if varies else (np.nan, np.nan, np.nan)
        interval = Interval(estimate=estimate, low=low, high=high) if varies else None
        out.append(TextDifference(estimate=estimate, interval=interval, error=error, blocks=len(starts)))
    return out


def text_verdict(verdict: Verdict, seed_error: float, text: TextDifference, margin: float | None) -> TextVerdict:
    """Adds the doubt of the text to the verdict of the seeds.

    A difference holds only on this text if its interval over the text contains zero, an equivalence if that interval
    leaves the margin. The remedy of an undecided verdict compares the two variances; a factor of 4 is clear.

    Args:
        seed_error: the standard error over seeds; NaN if there are too few.
    """
    if text.interval is None:
        return TextVerdict(verdict=verdict, only_on_this_text=False, remedy=_remedy(verdict, False, np.nan))
    outside = not text.interval.within(margin or 0.0)
    only = outside if verdict is Verdict.EQUIVALENT else not text.interval.excludes_zero
    only = only and verdict is not Verdict.UNDECIDED
    ratio = np.inf if seed_error == 0 else (text.error / seed_error) ** 2  # NaN with too few seeds for an interval
    return TextVerdict(verdict=verdict, only_on_this_text=only, remedy=_remedy(verdict, only, ratio))


def _remedy(verdict: Verdict, only_on_this_text: bool, ratio: float) -> Remedy:
    """``ratio``: the variance over the text over the variance over seeds."""
    if only_on_this_text:  # the seeds have decided
        return Remedy.TEXT
    if verdict is not Verdict.UNDECIDED:
        return Remedy.NOTHING
    if ratio > 4:
        return Remedy.TEXT
    return Remedy.BOTH if ratio > 1 / 4 else Remedy.SEEDS
