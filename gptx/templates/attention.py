"""An attention of your own. Letters: B batch, T time, Tk past and present tokens, D d_model, H heads, K dims of a head.

What the base class requires, and what it offers: docs/contracts.md#attention of gptx.
"""

from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.geometry.attention_view import Keep, Score, View
from gptx.geometry.model_shape import ModelShape


class AttentionTemplate(Attention):
    """Multi-head attention.

    Args:
        shape: the sizes of the model.
        sharpness: factor on the logits.
    """

    # Tensor parallelism splits q, k and v by their outputs, which are whole heads, and `out` by its inputs.
    tp = {"q": "col", "k": "col", "v": "col", "out": "row"}  # noqa: RUF012

    def __init__(self, shape: ModelShape, *, sharpness: float) -> None:
        super().__init__()
        self.kv_heads = self.rotary_heads = shape.n_head
        self.rotary_dim = shape.head_dim
        self.score = Score(sharpness * shape.head_dim**-0.5)
        self.q = nn.Linear(shape.d_model, shape.d_model, bias=shape.bias)
        self.k = nn.Linear(shape.d_model, shape.d_model, bias=shape.bias)
        self.v = nn.Linear(shape.d_model, shape.d_model, bias=shape.bias)
        self.out = nn.Linear(shape.d_model, shape.d_model, bias=shape.bias)  # `out`: it joins the residual stream

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        heads = (-1, self.rotary_dim)
        q, k, v = (layer(x).unflatten(-1, heads) for layer in (self.q, self.k, self.v))  # (B, T, H, K)
        q, k = view.rotate(q, k)  # positions
        k, v = keep(k, v)  # (B, Tk, H, K): with a cache, the past tokens and these
        y = view.attend(q, k, v, self.score)  # (B, T, H, K): window, bias, softmax
        out: Tensor = self.out(y.flatten(-2))  # (B, T, H*K) -> (B, T, D)
        return out
