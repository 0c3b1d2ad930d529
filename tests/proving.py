"""Check all properties of a model (gptx.proofs)."""

from gptx.model.gpt import GPT
from gptx.proofs.full import failures, title


def prove(model: GPT) -> None:
    """Assert that a model in float64 and eval mode has every property."""
    found = [f"{title(failure.proof)}: {failure.reason}" for failure in failures(model)]
    assert not found, "\n".join(found)
