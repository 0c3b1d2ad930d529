"""Positional encodings in float64, and what they add to logits."""

from typing import Any

import torch
from helpers_model import CONTEXT, options, tiny_option
from torch import Tensor

from gptx.config.instantiate import part
from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding

ROPES = [option for option in options("pos") if option.startswith(("rope", "irope", "xpos"))]
BIASES = [option for option in options("pos") if option in ("alibi", "t5", "kerple", "fire")]


def encoding(
    option: str, n_head: int = 4, head_dim: int = 8, heads: int = 0, context: int = CONTEXT, **keys: Any
) -> PositionalEncoding:
    """One encoding in float64, as in its YAML file except for ``keys``."""
    shape = ModelShape(
        n_layer=1, n_head=n_head, d_model=n_head * head_dim, context=context, vocab_size=9, dropout=0.0, bias=False
    )
    found: PositionalEncoding = part(tiny_option("pos", option, **keys), shape, head_dim, heads or n_head).double()
    return found


def frequencies(pos: PositionalEncoding, dim: int) -> Tensor:
    found: Tensor = pos.frequencies(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return found


def logits(pos: PositionalEncoding, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
    """(H, T, T') logits of q (1, T, H, R) at q_pos (1, T) for k (1, T', G, R) at k_pos (1, T')."""
    turned, _ = pos.rotate(q, k[:, :1], pos.table(q_pos))
    _, keys = pos.rotate(q[:, :1], k, pos.table(k_pos))
    found = torch.einsum("qhd,khd->hqk", turned[0], keys[0].repeat_interleave(q.shape[2] // k.shape[2], 1))
    if pos.biased:
        head = torch.arange(q.shape[2])[None, :, None, None]
        found = found + pos.bias(head, q_pos[:, None, :, None], k_pos[:, None, None, :])[0]
    return found


def bias_of(pos: PositionalEncoding, length: int) -> Tensor:
    """The bias (H, T, T) of all pairs, as a kernel computes it."""
    at, head = torch.arange(length), torch.arange(4)[None, :, None, None]
    found = pos.bias(head, at[None, None, :, None], at[None, None, None, :])[0]
    assert found.shape == (4, length, length)
    return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
