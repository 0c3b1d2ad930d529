"""Encodings that differ between local and global layers."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers_model import VOCAB, arm, tiny
from helpers_parity import LLAMA_ARM, both_dtypes, from_llama, hugging_face, same_logits
from helpers_pos import encoding, frequencies
from torch import Tensor

from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.window.base import Window
from gptx.window.full import Full
from gptx.window.sliding import Sliding


@dataclass(frozen=True)
class Alternating(Window):
    """A pattern of windows that starts with local layers."""

    size: int

    def at(self, layer: int, n_layer: int) -> Window:
        return Full() if layer % 2 else Sliding(self.size)

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        raise AssertionError("each layer has its own")


@dataclass(frozen=True)
class Full5(Full):
    size: int


def alternating(pos: str, keys: dict[str, Any], pattern: type[Window] = Alternating) -> GPT:
    cfg = tiny(arm(**{**dict(LLAMA_ARM), "pos": pos}), d_model=32)
    cfg.window = {"_target_": f"{pattern.__module__}.{pattern.__qualname__}", "size": 5}
    cfg.ffn.ratio = 2.0
    cfg.pos.update(keys)
    return build(cfg, VOCAB)


def test_window_is_local_only_if_it_hides_by_distance() -> None:
    class Sinks(Full):
        """Hides distant tokens but has no reach, because the first tokens are always visible."""

        @property
        def local(self) -> bool:
            return True

    assert Sliding(3).local and not Full().local
    for option in ("rope_dual", "irope"):
        pos = encoding(option)
        assert pos.at(0, Sinks()) is pos.at(1, Sliding(3)) is pos and pos.at(0, Full()) is not pos


@both_dtypes
def test_smollm3_without_positions_on_global_layers_equals_transformers(dtype: torch.dtype, tolerance: float) -> None:
    hf = hugging_face(
        "SmolLM3",
        dtype,
        theta=100.0,
        tie=True,
        hidden_size=32,
        head_dim=8,
        intermediate_size=64,
        pad_token_id=0,
        no_rope_layers=[1, 0],
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
        attn_implementation="eager",
    )
    for option in ("irope", "rope"):
        model = alternating(option, {"theta": 100.0}).to(dtype).eval()
        model.load_state_dict(from_llama(hf.state_dict(), 2, True))
        if option == "irope":
            same_logits(model, hf, tolerance)
        else:
            with pytest.raises(AssertionError, match="not close"):
                same_logits(model, hf, 1e-3)


def test_two_bases_equal_gemma_3() -> None:
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

    reference = Gemma3RotaryEmbedding(Gemma3TextConfig(head_dim=8, num_hidden_layers=6))
    pos = encoding("rope_dual")
    for window, kind in ((Sliding(5), "sliding_attention"), (Full(), "full_attention")):
        expected = getattr(reference, f"{kind}_inv_freq")
        torch.testing.assert_close(frequencies(pos.at(0, window), 8).float(), expected, rtol=1e-6, atol=0)


def test_rope_dual_base_of_each_layer() -> None:
    model = alternating("rope_dual", {"theta": 50.0, "global_theta": 5000.0})
    assert [pos.theta for pos in model.layer_pos] == [50.0, 5000.0]
    assert len({id(pos) for pos in alternating("rope_dual", {}, Full5).layer_pos}) == 1, "layers share one table"
