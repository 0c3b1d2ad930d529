"""Placement of the norms: full models against torch's own transformer and against their equations."""

import pytest
import torch
from helpers_model import CONTEXT, arm, random_model, rows, tiny
from torch import Tensor, nn
from torch.nn import functional as F

from gptx.geometry.attention_view import View
from gptx.geometry.side_losses import SideLosses
from gptx.geometry.visibility import Where
from gptx.model.gpt import GPT
from gptx.model.kv_cache import keep_nothing
from gptx.placement.base import Block

NAMES = {"norm1": "norm1", "norm2": "norm2", "linear1": "ffn.up", "linear2": "ffn.out"}


def model_with(placement: str, norm: str = "layernorm") -> GPT:
    parts = arm(attention="mha", pos="none", window="full", ffn="relu", norm=norm, placement=placement)
    return random_model(tiny(parts, n_layer=3, bias=True))


def torch_encoder(model: GPT, norm_first: bool) -> nn.TransformerEncoder:
    """A torch.nn.TransformerEncoder with the same weights; it supports pre-norm and post-norm."""
    state = model.state_dict()
    final = isinstance(model.norm, nn.Identity)
    layer = nn.TransformerEncoderLayer(
        16, 4, model.blocks[0].ffn.up.out_features, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    stack = nn.TransformerEncoder(layer, 3, None if final else nn.LayerNorm(16), enable_nested_tensor=False)
    weights = {} if final else {f"norm.{kind}": state[f"norm.{kind}"] for kind in ("weight", "bias")}
    for i in range(3):
        for kind in ("weight", "bias"):
            for name, gptx_name in NAMES.items():
                weights[f"layers.{i}.{name}.{kind}"] = state[f"blocks.{i}.{gptx_name}.{kind}"]
            qkv = [state[f"blocks.{i}.attention.{x}.{kind}"] for x in "qkv"]
            weights[f"layers.{i}.self_attn.in_proj_{kind}"] = torch.cat(qkv)
            weights[f"layers.{i}.self_attn.out_proj.{kind}"] = state[f"blocks.{i}.attention.out.{kind}"]
    stack.double().load_state_dict(weights)
    return stack


@pytest.mark.parametrize(("placement", "norm_first"), [("pre", True), ("post", False)])
def test_placements_equal_torch(placement: str, norm_first: bool) -> None:
    model, tokens = model_with(placement), rows(3, CONTEXT)
    # In training mode, because eval mode uses another code path; dropout is 0.
    reference = torch_encoder(model, norm_first)
    causal = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1)
    expected = F.linear(reference(model.embed(tokens), causal, is_causal=True), model.embed.weight)
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-10)
    assert isinstance(model.norm, nn.Identity) == (placement == "post"), "post-norm has just normalised its stream"


def equations(placement: str, block: Block, view: View, x: Tensor) -> Tensor:
    """Xiong et al. 2020, table 1 (post and pre); Kim et al. 2025, section 3 (peri): y = x + Norm(Module(Norm(x)))."""

    def attention(x: Tensor) -> Tensor:
        return block.attention(x, view, keep_nothing)

    def ffn(x: Tensor) -> Tensor:
        return block.ffn(x, SideLosses())

    for branch, norm, after in ((attention, block.norm1, "after1"), (ffn, block.norm2, "after2")):
        if placement == "pre":
            x = x + branch(norm(x))
        elif placement == "post":
            x = norm(x + branch(x))
        else:
            x = x + getattr(block, after)(branch(norm(x)))
    return x


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("placement", ["pre", "post", "peri"])
def test_placements_equal_their_equations(placement: str, norm: str) -> None:
    model = model_with(placement, norm)
    x = torch.randn(2, CONTEXT, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    view = model.views(dict.fromkeys(model.windows, Where.rows(CONTEXT)))[1]
    block = model.blocks[1]
    assert isinstance(block, Block)
    found = block(x, view, keep_nothing, SideLosses())
    for other in ("pre", "post", "peri"):
        if other != "peri" or hasattr(block, "after1"):
            same = torch.allclose(found, equations(other, block, view, x), rtol=0, atol=1e-12)
            assert same == (other == placement), f"{placement} as {other}"
