"""Each option of each axis on a GPU, compared with the same model in float64 on the CPU; skipped without a GPU.

One option runs on the CPU too, so that a machine without a GPU tests what these tests
call. The kernels alone are tested in test_kernels_on_cuda.py.
"""

import copy

import pytest
import torch
from helpers_model import GROUPS, options, randomise
from torch import Tensor

import gptx
from gptx.hardware.device import autocast
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.model.kv_cache import KVCache

CONTEXT, VOCAB = 128, 65
SIZES = ("model.n_layer=2", "model.n_head=4", "model.d_model=64", f"model.context={CONTEXT}", "model.bias=true")
ALSO = {"banded": "window=sliding", "irope": "window=alternating", "rope_dual": "window=alternating"}
ARMS = [
    (group, option) for group in GROUPS for option in options(group) if option != "flash"
]  # flash-attn is a separate package
NEEDS_A_GPU = (
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
)
CASES = [pytest.param(*arm, "cuda", marks=NEEDS_A_GPU, id=f"{arm[0]}={arm[1]}") for arm in ARMS] + [
    pytest.param("window", "sliding", "cpu", id="window=sliding-cpu")
]


def pair(group: str, option: str, device: str) -> tuple[GPT, GPT]:
    """The model on the device in fp32, and on the CPU in float64 with equal weights and the reference kernel."""
    overrides = [f"{group}={option}", *([ALSO[option]] if option in ALSO else []), *SIZES]
    fast = build(gptx.compose([*overrides, f"device={device}", "precision=fp32"]), VOCAB)
    randomise(fast, std=0.1)
    slow = build(gptx.compose([*overrides, "kernel=reference", "device=cpu", "precision=fp32"]), VOCAB)
    slow.load_state_dict(copy.deepcopy(fast.state_dict()))
    return fast.to(device), slow.double()


def rows() -> tuple[Tensor, Tensor]:
    """Tokens (2, T + 1) and document ids (2, T)."""
    tokens = torch.randint(0, VOCAB, (2, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    return tokens, (torch.arange(CONTEXT) // 50).expand(2, -1).contiguous()


def trained(model: GPT, packed: bool) -> dict[str, Tensor]:
    """The loss and all gradients, as float64 on the CPU."""
    device = model.embed.weight.device
    tokens, documents = (x.to(device) for x in rows())
    loss = model(tokens[:, :-1], tokens[:, 1:], None, documents if packed else None)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    gradients = {name: one for name, one in zip(named, found, strict=True) if one is not None}
    return {key: value.detach().cpu().double() for key, value in {"loss": loss, **gradients}.items()}


@pytest.mark.parametrize("packed", [False, True], ids=["row", "packed"])
@pytest.mark.parametrize(("group", "option", "device"), CASES)
def test_losses_and_gradients_equal_those_on_the_cpu(group: str, option: str, device: str, packed: bool) -> None:
    fast, slow = pair(group, option, device)
    found, expected = trained(fast, packed), trained(slow, packed)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if not key.endswith("attention.k.bias"):  # rounding only: the softmax cancels it
            assert (found[key] - value).norm() <= 1e-3 * value.norm(), key


@pytest.mark.parametrize(("group", "option", "device"), CASES)
def test_bf16_loss_is_close(group: str, option: str, device: str) -> None:
    fast, slow = pair(group, option, device)
    tokens, _ = rows()
    with torch.no_grad():
        with autocast(torch.device(device), torch.bfloat16):
            low = fast(*(x.to(device) for x in (tokens[:, :-1], tokens[:, 1:])))
        assert low.item() == pytest.approx(slow(tokens[:, :-1], tokens[:, 1:]).item(), rel=2e-2)


@pytest.mark.parametrize(("group", "option", "device"), CASES)
def test_decoding_with_a_cache_equals_the_full_forward(group: str, option: str, device: str) -> None:
    fast, _ = pair(group, option, device)
    fast.eval()
    tokens, cache = rows()[0][:, :CONTEXT].to(device), KVCache(CONTEXT)
    with torch.no_grad():
        parts = [fast(part, context=cache) for part in tokens.split([CONTEXT - 30, 1, 1, 28], dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), fast(tokens), rtol=1e-3, atol=1e-3)
