"""Norms and feed-forward networks. Each class is a variant; its YAML is in conf/norm or conf/ffn.

Letters: B batch, T time, D model width, F hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.shape import Shape


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016), with a bias where the model has biases."""

    def __init__(self, shape: Shape, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.d_model))
        self.bias = nn.Parameter(torch.zeros(shape.d_model)) if shape.bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation: no mean, no bias (Zhang and Sennrich 2019)."""

    def __init__(self, shape: Shape, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class FFN(nn.Module):
    """Two layers with a pointwise activation between; (B, T, D) -> (B, T, D) through F = ratio * D."""

    def __init__(self, shape: Shape, *, ratio: float) -> None:
        super().__init__()
        hidden = _hidden(shape, ratio, 1)
        self.up = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.out = nn.Linear(hidden, shape.d_model, bias=shape.bias)

    def activate(self, x: Tensor) -> Tensor:
        raise AssertionError("FFN is abstract: a variant names its activation")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.activate(self.up(x)))
        return out


class GELU(FFN):
    """Gaussian error linear unit (Hendrycks and Gimpel 2016): exact, or GPT-2's tanh form."""

    def __init__(self, shape: Shape, *, ratio: float, tanh: bool) -> None:
        super().__init__(shape, ratio=ratio)
        self.approximate = "tanh" if tanh else "none"

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)


class ReLU(FFN):
    """The original transformer's activation (Vaswani et al. 2017)."""

    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x)


class SwiGLU(nn.Module):
    """SiLU-gated linear unit (Shazeer 2020): out(silu(gate x) * up x). With ratio 8/3 as many parameters as FFN's 4."""

    def __init__(self, shape: Shape, *, ratio: float, multiple_of: int) -> None:
        super().__init__()
        hidden = _hidden(shape, ratio, multiple_of)
        self.gate = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.up = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.out = nn.Linear(hidden, shape.d_model, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.silu(self.gate(x)) * self.up(x))
        return out


def _hidden(shape: Shape, ratio: float, multiple_of: int) -> int:
    if ratio <= 0 or multiple_of < 1:
        raise ConfigError(f"ffn.ratio={ratio}, ffn.multiple_of={multiple_of}: expected ratio > 0 and multiple_of >= 1")
    return max(1, round(shape.d_model * ratio / multiple_of)) * multiple_of
