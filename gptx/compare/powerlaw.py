"""How a loss falls with size and text: L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022, approach 3).

N is the number of all parameters, embeddings included, as there: to leave them out is much of why Kaplan et al. (2020)
found other exponents (Pearce and Song 2024). D is the number of tokens trained on. C = 6 N D FLOPs are what they cost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, nnls
from scipy.special import huber, logsumexp, softmax
from threadpoolctl import threadpool_limits

from gptx.errors import GptxError

Floats = npt.NDArray[np.float64]
DELTA = 1e-3  # residuals of log L beyond it count linearly: a run that went astray does not bend the law (as there)
EXPONENTS = (0.01, 3.0)
STARTS = (0.1, 0.2, 0.35, 0.5, 0.8, 1.3)


@dataclass(frozen=True)
class Law:
    """Natural units: nats a token, parameters, tokens."""

    E: float
    A: float
    B: float
    a: float
    b: float

    @property
    def growth(self) -> float:
        """The best size grows as this power of the compute, the best text as 1 - this."""
        return self.b / (self.a + self.b)

    def loss(self, sizes: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
        n, d = np.asarray(sizes, float), np.asarray(tokens, float)
        return np.asarray(self.E + self.A * n**-self.a + self.B * d**-self.b)

    def best(self, flops: float) -> tuple[float, float]:
        """N and D of the lowest loss that so many FLOPs can buy (their equation 4)."""
        size = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b)) * (flops / 6) ** self.growth
        return size, flops / 6 / size


def fit(sizes: Floats, tokens: Floats, losses: Floats, start: Law | None = None) -> Law:
    """The law of the lowest Huber loss of log L, by L-BFGS from the best of a grid of exponents (and from ``start``).

    Each has the E, A and B that suit its exponents best: they are linear, so they need no grid. The objective is
    in units of ``DELTA``: as small as it is written there, optimisers stop too early (Besiroglu et al. 2024).
    """
    n0, d0 = np.exp(np.log(sizes).mean()), np.exp(np.log(tokens).mean())  # logs round 0 are well conditioned
    logs = np.stack([np.log(sizes / n0), np.log(tokens / d0)])
    with threadpool_limits(limits=1):  # BLAS's threads would wait for one another far longer than such sums take
        points = sorted(_starts(logs, losses), key=lambda point: _objective(point, logs, losses)[0])[:8]
        if start:  # of a bootstrap: it is near, and the best of the grid is there in case it is not
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
    """Sum of Huber losses and its gradient over (log E, log A, log B, a, b)."""
    e, log_a, log_b, a, b = point
    terms = np.stack([np.full_like(losses, e), log_a - a * logs[0], log_b - b * logs[1]])
    off = (logsumexp(terms, axis=0) - np.log(losses)) / DELTA
    share = softmax(terms, axis=0) * np.clip(off, -1, 1) / DELTA
    return float(huber(1.0, off).sum()), np.array([*share.sum(1), -share[1] @ logs[0], -share[2] @ logs[1]])


def bootstrap(sizes: Floats, tokens: Floats, losses: Floats, law: Law, times: int) -> list[Law]:
    """Laws of as many runs, drawn from these with replacement; draws that no law could be fitted to are left out.
    [] where those are most of them: the rest are near the runs themselves, and would look surer than they are."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(losses), size=(times, len(losses)))
    able = [i for i in draws if not _lacks(sizes[i], tokens[i])]
    return [fit(sizes[i], tokens[i], losses[i], law) for i in able] if 2 * len(able) >= times else []


def check(sizes: Floats, tokens: Floats) -> None:
    """Refuse what cannot tell the five numbers apart."""
    if lack := _lacks(sizes, tokens):
        listed = " and ".join(
            f"{len(set(values))} {what} ({', '.join(f'{v:,.0f}' for v in sorted(set(values)))})"
            for what, values in (("sizes", sizes), ("lengths of text", tokens))
        )
        raise GptxError(f"the law has five numbers, which wants {lack}; found {listed}: experiment=scaling has enough")


def _lacks(sizes: Floats, tokens: Floats) -> str:
    cells = set(zip(sizes.tolist(), tokens.tolist(), strict=True))
    if len(set(sizes.tolist())) < 3 or len(set(tokens.tolist())) < 3:
        return "at least 3 sizes and 3 lengths of text"
    if len(cells) < 6:
        return "at least 6 pairs of a size and a length"
    logs = np.log(np.array(sorted(cells)))
    if np.linalg.matrix_rank(logs - logs.mean(0), tol=1e-6) < 2:
        return "several lengths at one size: where both grow together, neither's part can be told"
    return ""
