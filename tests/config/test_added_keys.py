"""Runs made before a key was added: their saved configs build what they computed, and have the identity they had."""

from pathlib import Path

import pytest
import torch
from composed import composed
from omegaconf import OmegaConf

from gptx.config.identity import identity
from gptx.config.saved_config import load_config
from gptx.model.build import build
from gptx.model.gpt import GPT

ADDED = {  # the added keys of each option, and overrides with which today's command computes what runs without them did
    ("attention", "differential"): {"lambda_rise": "0", "norm_weight": "false"},
    ("attention", "forgetting"): {"n_gate": "2", "norm_per_head": "false"},
    ("pos", "fire"): {"shared": "true"},
}
GROUPED = ["attention.n_kv_head=2", "model.n_head=4", "model.n_layer=2", "device=cpu"]


@pytest.mark.parametrize(("axis", "option"), ADDED)
def test_saved_configs_without_added_keys_compute_what_they_did(axis: str, option: str, tmp_path: Path) -> None:
    attention = [] if axis == "attention" else ["attention=gqa"]
    words = [*attention, f"{axis}={option}", *GROUPED]
    now = composed(*words, *(f"{axis}.{key}={value}" for key, value in ADDED[axis, option].items()))
    saved = OmegaConf.create(OmegaConf.to_container(now, resolve=True))
    for key in ADDED[axis, option]:
        del saved[axis][key]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(saved))
    loaded = load_config(tmp_path)
    assert identity(loaded, "corpus") == identity(now, "corpus") != identity(composed(*words), "corpus")
    tokens = torch.arange(12)[None]

    def logits(model: GPT) -> torch.Tensor:
        found: torch.Tensor = model.eval()(tokens)
        return found

    assert torch.equal(logits(build(loaded, 257)), logits(build(now, 257)))
    assert not torch.equal(logits(build(composed(*words), 257)), logits(build(now, 257)))
