"""All properties, and their check on one model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from gptx.errors import reason
from gptx.model.gpt import GPT
from gptx.proofs.causality import (
    influence_is_exactly_what_the_windows_allow,
    logits_do_not_depend_on_later_tokens,
    rows_of_a_batch_are_independent,
)
from gptx.proofs.decoding import decoding_in_chunks_equals_the_full_forward, packed_documents_equal_separate_rows
from gptx.proofs.failure import PropertyFailed
from gptx.proofs.gradients import every_parameter_has_a_gradient, state_dict_restores_the_model
from gptx.proofs.kernels import cost_equals_measurement, every_kernel_equals_the_reference
from gptx.proofs.positions import (
    relative_encodings_are_invariant_to_shifted_positions,
    the_order_of_earlier_tokens_changes_the_logits,
)
from gptx.proofs.small_model import CONTEXT, rows

Proof = Callable[[GPT, Tensor], None]  # of a model in float64 and tokens (B, CONTEXT + 1)

PROOFS: tuple[Proof, ...] = (
    logits_do_not_depend_on_later_tokens,
    rows_of_a_batch_are_independent,
    influence_is_exactly_what_the_windows_allow,
    every_parameter_has_a_gradient,
    decoding_in_chunks_equals_the_full_forward,
    packed_documents_equal_separate_rows,
    every_kernel_equals_the_reference,
    state_dict_restores_the_model,
    the_order_of_earlier_tokens_changes_the_logits,
    relative_encodings_are_invariant_to_shifted_positions,
    cost_equals_measurement,
)


@dataclass(frozen=True)
class Failure:
    """A property that a model lacks. ``reason``: one line."""

    proof: Proof
    reason: str


def title(proof: Proof) -> str:
    """``every parameter has a gradient``."""
    return proof.__name__.replace("_", " ")


def failures(model: GPT) -> Iterator[Failure]:
    """Check every property of a model in float64 and eval mode."""
    tokens = rows(2, CONTEXT + 1)
    for proof in PROOFS:
        try:
            proof(model, tokens)
        except PropertyFailed as error:
            yield Failure(proof, str(error))
        except Exception as error:
            yield Failure(proof, f"raised {reason(error)}")
