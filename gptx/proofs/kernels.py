"""Every kernel computes what the reference kernel computes, and costs what the formulas say."""

from collections.abc import Iterator
from unittest.mock import patch

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gptx.config.instantiate import part
from gptx.config.overrides import conf_dir, options
from gptx.errors import option
from gptx.geometry.visibility import Where, visible
from gptx.kernel import banded_chunks
from gptx.kernel.base import Kernel
from gptx.model.cost import cost, pair_macs
from gptx.model.gpt import GPT
from gptx.proofs.causality import attention_of
from gptx.proofs.decoding import decode, decoding_sizes
from gptx.proofs.failure import require, require_equal
from gptx.proofs.small_model import CONTEXT, rows


def every_kernel_equals_the_reference(model: GPT, tokens: Tensor) -> None:
    """Loss, gradient of every parameter, packed documents and decoding, for all kernels that can compute the model."""
    expected: dict[str, Tensor] = {}
    with patch.multiple(banded_chunks, SMALLEST=2, LARGEST=4):  # so that a short row has several chunks
        for name, kernel in sorted(_with_own(kernels(model), model.kernel), key=lambda item: item[0] != "reference"):
            with model.with_kernel(kernel):
                found = _computed(model, tokens)
            expected = expected or found
            for key, value in found.items():
                limit = 1e-9 * max(1.0, float(expected[key].abs().max()))
                require_equal(value, expected[key], f"kernel={name} differs from the reference in {key}", limit)


def _with_own(found: dict[str, Kernel], kernel: Kernel) -> Iterator[tuple[str, Kernel]]:
    """The kernels of gptx, and the model's if it is the user's own."""
    yield from found.items()
    if not type(kernel).__module__.startswith("gptx."):
        yield option(kernel), kernel


def _computed(model: GPT, tokens: Tensor) -> dict[str, Tensor]:
    """What kernels are compared in: gradients by the name of the parameter, logits."""
    length, size = decoding_sizes(model)
    documents = (torch.arange(CONTEXT) // 5).expand(2, -1)
    gradients = torch.autograd.grad(model(tokens[:, :-1], tokens[:, 1:]), list(model.parameters()))
    with torch.no_grad():
        found = {key: gradient for (key, _), gradient in zip(model.named_parameters(), gradients, strict=True)}
        found["packed"] = model(tokens[:, :-1], documents=documents)
        found["decoded"] = decode(model, rows(2, length), [CONTEXT // 2, 1, 1, length - CONTEXT // 2 - 2], size)[0]
    return found


def kernels(model: GPT) -> dict[str, Kernel]:
    """The kernels of gptx that can compute a model on a CPU, by option."""
    layers = list(zip(model.windows, model.layer_pos, strict=True))
    files = {option: OmegaConf.load(conf_dir() / "kernel" / f"{option}.yaml") for option in options("kernel")}
    found: dict[str, Kernel] = {
        option: part(file, model.shape, attention_of(model).demands)  # type: ignore[arg-type]
        for option, file in files.items()
    }
    return {o: k for o, k in found.items() if not any(k.rejects(*layer, "cpu") for layer in layers)}


def cost_equals_measurement(model: GPT, tokens: Tensor) -> None:
    """Compare FLOPs with torch's counter, which counts all T x T pairs where `cost` counts the visible ones, and the
    cache size with the ring buffers after one row."""
    price = cost(model, torch.float64)
    row = tokens[:1]
    with model.with_kernel(kernels(model)["reference"]), FlopCounterMode(display=False) as counter:
        model(row[:, :-1], row[:, 1:]).backward()
    model.zero_grad()
    surplus = 6 * _hidden_macs(model) / CONTEXT
    counted = counter.get_total_flops() / CONTEXT - surplus
    text = f"FLOPs per token: computed {price.flops_per_token:,.1f}, counted by torch {counted:,.1f}"
    require(abs(counted - price.flops_per_token) <= 0.5, text)
    nbytes = decode(model, tokens[:1, :CONTEXT], [1] * CONTEXT, CONTEXT)[1].nbytes() / CONTEXT
    text = f"cache bytes per token: computed {price.kv_bytes_per_token:,.1f}, measured {nbytes:,.1f}"
    require(price.kv_bytes_per_token == nbytes, text)
    held = sum(value.numel() for value in model.state_dict().values())
    require(price.n_params == held, f"parameters: computed {price.n_params:,}, in the state dict {held:,}")


def _hidden_macs(model: GPT) -> int:
    """The multiply-adds of the reference kernel for pairs that the windows hide."""
    hidden = {window: int((~visible(Where.rows(CONTEXT), window.allows)).sum()) for window in model.windows}
    macs = sum(width * hidden[window] for window, width in pair_macs(model).items())
    shared = set(zip(model.windows, model.layer_pos, strict=True))
    return macs + sum(pos.macs_per_pair * hidden[window] for window, pos in shared)
