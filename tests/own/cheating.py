"""Variants of a user that lack a property, each in another way."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.attention.gqa import GQA
from gptx.ffn.gelu import GELU
from gptx.geometry.attention_view import Keep, Score, View
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses
from gptx.kernel.reference import Reference
from gptx.norm.rmsnorm import RMSNorm


class Honest(GQA):
    """Multi-head attention with one more parameter."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape, n_kv_head=shape.n_head, qk_norm=False, softcap=0.0, bias=shape.bias)
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        return super().forward(self.gate * self.given(x), view, keep)

    def given(self, x: Tensor) -> Tensor:
        return x


class Wide(Honest):
    """Has a matrix of the model's width, which a key gives."""

    def __init__(self, shape: ModelShape, *, width: int) -> None:
        super().__init__(shape)
        self.wide = nn.Linear(width, width, bias=False)

    def given(self, x: Tensor) -> Tensor:
        return self.wide(x)


class NextToken(Honest):
    """Adds the input of the next token."""

    def given(self, x: Tensor) -> Tensor:
        return x + torch.roll(x, -1, 1)


class LearnsToCheat(Honest):
    """Adds the input of the next token times a parameter that starts at 0."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        self.leak = nn.Parameter(torch.zeros(1))

    def given(self, x: Tensor) -> Tensor:
        return x + self.leak * torch.roll(x, -1, 1)


class OnlyInTraining(NextToken):
    """Adds it in training only."""

    def given(self, x: Tensor) -> Tensor:
        return super().given(x) if self.training else x


class BatchMean(Honest):
    """Subtracts the mean over the batch."""

    def given(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Unused(Honest):
    """Has a parameter that nothing uses."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        self.forgotten = nn.Parameter(torch.ones(3))


class Detached(Honest):
    """Uses a parameter without its gradient."""

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        return GQA.forward(self, self.gate.detach() * x, view, keep)


class NoCache(Honest):
    """Forgets the tokens of earlier forwards."""

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        keep_new = lambda *new: tuple(one[:, -x.shape[1] :] for one in keep(*new))  # noqa: E731
        return super().forward(x, view, keep_new)


class Neighbour(Honest):
    """Adds the input of the previous token, also that of another document."""

    def given(self, x: Tensor) -> Tensor:
        return x + F.pad(x, (0, 0, 1, 0))[:, :-1]


class Broken(Honest):
    """Raises an error for rows of an even length."""

    def given(self, x: Tensor) -> Tensor:
        return x if x.shape[1] % 2 else x @ x


class FutureFFN(GELU):
    """A feed-forward network that looks at the next token."""

    def forward(self, x: Tensor, side: SideLosses) -> Tensor:
        return super().forward(x + torch.roll(x, -1, 1), side)


class OverTime(RMSNorm):
    """Normalises over time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 + x.abs().mean(-2, keepdim=True))


class NoMask(Reference):
    """A kernel without a mask."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Tensor)
        return super().forward(q, k, v, torch.zeros_like(mask), score)
