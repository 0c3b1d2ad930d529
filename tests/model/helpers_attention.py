"""Tiny Llamas with another attention."""

from typing import Any

import pytest
from helpers_model import Arm, tiny
from helpers_parity import LLAMA_ARM
from omegaconf import DictConfig
from torch import Tensor

from gptx.attention.base import Attention
from gptx.geometry.visibility import Where
from gptx.model.gpt import GPT
from gptx.model.kv_cache import keep_nothing

NEW = ("sink", "gated", "forgetting", "differential", "mla")
LAYERS, HEADS, GROUPS, DIM = 2, 4, 2, 4  # of the tiny models; DIM is the size of a head
GROUPED = pytest.mark.parametrize("groups", [HEADS, GROUPS])


def config_of(attention: str, model: dict[str, Any] | None = None, more: Arm = (), **keys: Any) -> DictConfig:
    """A tiny Llama's config with another attention; ``keys`` are the attention's."""
    cfg = tiny((*LLAMA_ARM[1:], *more, ("attention", attention)), **(model or {"bias": False}))
    cfg.ffn.ratio = 40 / 16
    cfg.attention.update(keys)
    return cfg


def first_attention(model: GPT, x: Tensor, attention: Attention | None = None) -> Tensor:
    """The output of the first layer's attention for rows (B, T, D)."""
    view = model.views(dict.fromkeys(model.windows, Where.rows(x.shape[1])))[0]
    y: Tensor = (attention or model.blocks[0].attention)(x, view, keep_nothing)
    return y
