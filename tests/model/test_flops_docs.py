"""The table in docs/variants.md that compares gptx's FLOPs with the usual formula of a model FLOPs utilisation."""

import pytest
import torch
from composed import composed
from documented import generated_table

from gptx.model.build import build
from gptx.model.cost import flops_per_token, n_params

MODELS = {
    "nano": "model=nano",
    "small": "model=small",
    "gpt2": "model=gpt2 model.vocab_size=50257",
    "gpt2_xl": "model=gpt2_xl model.vocab_size=50257",
    "gpt2 with a longer context": "model=gpt2 model.vocab_size=50257 model.context=8192",
}


def row(name: str) -> tuple[str, float]:
    """The line of the table, and the ratio."""
    with torch.device("meta"):
        model = build(composed(*MODELS[name].split(), "pos=rope", "device=cpu"), 257)
    shape = model.shape
    usual = 6 * n_params(model) + 12 * shape.n_layer * shape.d_model * shape.context  # H heads of Q dims: d_model
    flops = flops_per_token(model)
    label = f"{name}, {shape.context:,}"
    return f"| {label} | {flops / 1e9:.3g} | {usual / 1e9:.3g} | {flops / usual:.2f} |", flops / usual


def test_docs_compare_flops_with_the_usual_formula() -> None:
    rows = {name: row(name) for name in MODELS}
    shown = generated_table("docs/variants.md", "flops").splitlines()[2:]
    assert shown == [line for line, _ in rows.values()]
    assert all(0.9 < ratio < 1 for name, (_, ratio) in rows.items() if "longer" not in name)
    assert rows["gpt2 with a longer context"][1] == pytest.approx(0.72, abs=0.02), "half of the pairs are in the future"
