"""The scaling law L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022, approach 3), and how it is fitted.

N is the number of parameters, embeddings included as in that paper: leaving them out explains much of why Kaplan et al.
(2020) found other exponents (Pearce and Song 2024). D is the number of training tokens. The compute is C = 6 N D FLOPs.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, nnls
from scipy.special import huber, logsumexp, softmax
from threadpoolctl import threadpool_limits

from gptx.errors import GptxError

Floats = npt.NDArray[np.float64]
DELTA = 1e-3  # Huber loss: residuals of log L above it count linearly, so that outliers have little influence
EXPONENTS = (0.01, 3.0)  # bounds of a and b
STARTS = (0.1, 0.2, 0.35, 0.5, 0.8, 1.3)


@dataclass(frozen=True)
class Law:
    """The five coefficients. Units: nats per token, parameters, tokens."""

    E: float
    A: float
    B: float
    a: float
    b: float

    @property
    def growth(self) -> float:
        """Exponent g of the parameters N and tokens D with the lowest loss at compute C: N ~ C^g and D ~ C^(1 - g)."""
        return self.b / (self.a + self.b)

    def loss(self, sizes: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
        n, d = np.asarray(sizes, float), np.asarray(tokens, float)
        return np.asarray(self.E + self.A * n**-self.a + self.B * d**-self.b)

    def best(self, flops: float) -> tuple[float, float]:
        """N and D with the lowest loss for a number of FLOPs (equation 4 of the paper)."""
        size = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b)) * (flops / 6) ** self.growth
        return size, flops / 6 / size


@dataclass(frozen=True)
class FittedLaw:
    """A law, the runs it was fitted to, and the laws of the bootstrap samples (empty if there are too few runs)."""

    sizes: Floats
    tokens: Floats
    losses: Floats
    law: Law
    samples: list[Law]

    @property
    def flops(self) -> Floats:
        return 6 * self.sizes * self.tokens

    def interval(self, of: Callable[[Law], float]) -> tuple[float, float]:
        """The central 95 % interval of a quantity over the bootstrap samples; NaN if there are none."""
        if not self.samples:
            return math.nan, math.nan
        low, high = np.percentile([of(law) for law in self.samples], [2.5, 97.5])
        return float(low), float(high)

    def extrapolates(self, size: float, tokens: float) -> bool:
        """Whether a point lies outside the measured sizes or token counts."""
        inside = self.sizes.min() <= size <= self.sizes.max() and self.tokens.min() <= tokens <= self.tokens.max()
        return not inside


def fit(sizes: Floats, tokens: Floats, losses: Floats, start: Law | None = None) -> Law:
    """Fit the law by minimising the Huber loss of log L with L-BFGS.

    The fit starts from the best points of a grid of exponents, and from ``start`` if given. E, A and B at a grid point
    come from linear least squares. The objective is divided by ``DELTA``, because optimisers stop too early on the
    paper's very small values (Besiroglu et al. 2024).

    Args:
        sizes, tokens, losses: (n,) N, D and L of n runs.
    """
    n0, d0 = np.exp(np.log(sizes).mean()), np.exp(np.log(tokens).mean())  # centred logs are well conditioned
    logs = np.stack([np.log(sizes / n0), np.log(tokens / d0)])
    with threadpool_limits(limits=1):  # several BLAS threads would be slower on such small sums
        points = sorted(_starts(logs, losses), key=lambda point: _objective(point, logs, losses)[0])[:8]
        if start:  # in a bootstrap, start from the law of all runs, which is close; otherwise from the best grid point
            a_term, b_term = start.A * n0**-start.a, start.B * d0**-start.b
            points = [np.array([*np.log([start.E, a_term, b_term]), start.a, start.b]), points[0]]
        bounds = [(-20.0, 20.0)] * 3 + [EXPONENTS] * 2
        found = [minimize(_objective, p, (logs, losses), "L-BFGS-B", jac=True, bounds=bounds) for p in points]
    e, log_a, log_b, a, b = map(float, min(found, key=lambda result: float(result.fun)).x)
    return Law(float(np.exp(e)), float(np.exp(log_a) * n0**a), float(np.exp(log_b) * d0**b), a, b)


def _starts(logs: Floats, losses: Floats) -> Iterator[Floats]:
    for a, b in product(STARTS, STARTS):
        terms = np.stack([np.ones_like(losses), np.exp(-a * logs[0]), np.exp(-b * logs[1])], axis=1)
        linear, _ = nnls(terms / losses[:, None], np.ones_like(losses))
        yield np.array([*np.log(np.maximum(linear, 1e-3 * losses.mean())), a, b])


def _objective(point: Floats, logs: Floats, losses: Floats) -> tuple[float, Floats]:
    """Sum of Huber losses, and its gradient with respect to (log E, log A, log B, a, b)."""
    e, log_a, log_b, a, b = point
    terms = np.stack([np.full_like(losses, e), log_a - a * logs[0], log_b - b * logs[1]])
    residual = (logsumexp(terms, axis=0) - np.log(losses)) / DELTA
    weight = softmax(terms, axis=0) * np.clip(residual, -1, 1) / DELTA
    return float(huber(1.0, residual).sum()), np.array([*weight.sum(1), -weight[1] @ logs[0], -weight[2] @ logs[1]])


def bootstrap(sizes: Floats, tokens: Floats, losses: Floats, law: Law, times: int) -> list[Law]:
    """Laws fitted to ``times`` samples of the runs, drawn with replacement.

    Samples that do not determine a law are left out. If these are more than half, the result is empty, because
    the rest would make the intervals too narrow.
    """
    rng = np.random.default_rng(0)
    draws = rng.integers(len(losses), size=(times, len(losses)))
    usable = [i for i in draws if not _missing(sizes[i], tokens[i])]
    return [fit(sizes[i], tokens[i], losses[i], law) for i in usable] if 2 * len(usable) >= times else []


def check(sizes: Floats, tokens: Floats) -> None:
    """Reject runs that do not determine the five coefficients.

    Raises:
        GptxError: too few sizes, token counts, or pairs of both.
    """
    if missing := _missing(sizes, tokens):
        listed = " and ".join(
            f"{len(set(values))} {what} ({', '.join(f'{v:,.0f}' for v in sorted(set(values)))})"
            for what, values in (("sizes", sizes), ("token counts", tokens))
        )
        raise GptxError(f"a scaling law needs {missing}; found {listed}. experiment=scaling has enough runs")


def _missing(sizes: Floats, tokens: Floats) -> str:
    cells = set(zip(sizes.tolist(), tokens.tolist(), strict=True))
    if len(set(sizes.tolist())) < 3 or len(set(tokens.tolist())) < 3:
        return "at least 3 sizes and 3 token counts"
    if len(cells) < 6:
        return "at least 6 pairs of a size and a token count"
    logs = np.log(np.array(sorted(cells)))
    if np.linalg.matrix_rank(logs - logs.mean(0), tol=1e-6) < 2:
        return "several lengths for one size: sizes and lengths that grow together cannot be separated"
    return ""
