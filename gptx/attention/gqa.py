"""Grouped-query attention (Ainslie et al. 2023). With n_kv_head = n_head it is multi-head attention (Vaswani et al.
2017), with n_kv_head = 1 multi-query attention (Shazeer 2019): mha, gqa and mqa are three YAML files over this class.

Letters: B batch, T time, H query heads, G key/value heads, D head dim.
"""

from torch import Tensor, nn

from gptx.attention.base import Attention, Keep, View
from gptx.errors import ConfigError
from gptx.shape import Shape


class GQA(Attention):
    """H query heads share G key/value heads: H/G times fewer key/value parameters, and as much less cache."""

    tp = {"q": "col", "k": "col", "v": "col", "out": "row"}  # noqa: RUF012 - a ClassVar in the base

    def __init__(self, shape: Shape, *, n_kv_head: int) -> None:
        super().__init__()
        if n_kv_head < 1 or shape.n_head % n_kv_head:
            fits = [g for g in range(1, shape.n_head + 1) if shape.n_head % g == 0]
            raise ConfigError(
                f"attention.n_kv_head={n_kv_head} does not divide model.n_head={shape.n_head}: "
                f"one of {', '.join(map(str, fits))} would"
            )
        self.head_dim = shape.head_dim
        self.rotary_dim = shape.head_dim
        self.pair_width = 2 * shape.n_head * shape.head_dim
        self.q = nn.Linear(shape.d_model, shape.n_head * self.head_dim, bias=shape.bias)
        self.k = nn.Linear(shape.d_model, n_kv_head * self.head_dim, bias=shape.bias)
        self.v = nn.Linear(shape.d_model, n_kv_head * self.head_dim, bias=shape.bias)
        self.out = nn.Linear(shape.n_head * self.head_dim, shape.d_model, bias=shape.bias)

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        heads = (-1, self.head_dim)
        q = view.rotate(self.q(x).unflatten(-1, heads))  # (B, T, H, D)
        k = view.rotate(self.k(x).unflatten(-1, heads))  # (B, T, G, D)
        k, v = keep(k, self.v(x).unflatten(-1, heads))
        y = view.attend(q, k, v, scale=self.head_dim**-0.5)  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))
        return out
