"""Every parameter takes part in training and is part of the state dict."""

from collections.abc import Iterable

import torch
from torch import Tensor

from gptx.model.gpt import GPT
from gptx.proofs.causality import attention_of
from gptx.proofs.failure import require
from gptx.proofs.small_model import randomise, rows


def every_parameter_has_a_gradient(model: GPT, tokens: Tensor) -> None:
    """All gradients are finite. None is 0, except that of a key bias which cannot change the attention weights."""
    parameters_have_gradients(model, dict(model.named_parameters()), tokens.shape[1])


def parameters_have_gradients(model: GPT, named: dict[str, Tensor], length: int, batches: int = 1) -> None:
    """Check the gradients of some parameters, by name, each in at least one of ``batches`` batches."""
    largest = dict.fromkeys(named, 0.0)
    for seed in range(batches) if named else ():
        found = rows(4, length, seed)
        gradients = torch.autograd.grad(model(found[:, :-1], found[:, 1:]), list(named.values()), allow_unused=True)
        for key, gradient in zip(named, gradients, strict=True):
            require(gradient is not None, f"{key} takes no part in the forward")
            require(gradient.isfinite().all(), f"the gradient of {key} is not finite")
            largest[key] = max(largest[key], float(gradient.abs().max()))
    for key, value in largest.items():
        if key.endswith("attention.k.bias") and not key_bias_has_an_effect(model, int(key.split(".")[1])):
            require(value < 1e-7, f"{key} has a gradient of {value:.2g}, but cannot change the attention weights")
        else:
            require(value > 1e-6, f"the gradient of {key} is 0: it is not trained")


def key_bias_has_an_effect(model: GPT, layer: int) -> bool:
    """Whether a vector added to all keys of a layer (as a bias is) changes the attention weights. Without a rotation it
    adds the same number to all logits of a query, which changes softmax only if there is a sink or a softcap."""
    pos, attention = model.layer_pos[layer], attention_of(model)
    where = torch.arange(model.shape.context)[None]
    probe = torch.ones(1, where.shape[1], 1, attention.rotary_dim, dtype=model.embed.weight.dtype)
    rotated = pos.rotate(probe, probe, pos.table(where))[1]
    return not torch.equal(rotated, probe) or bool(attention.demands & {"sink", "softcap"})


def state_dict_restores_the_model(model: GPT, tokens: Tensor) -> None:
    """The state dict has every parameter once and nothing else, and restores the logits exactly."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    names = {key for key, _ in model.named_parameters()}
    require(set(state) == names, f"in the state dict, but no parameter, or a second name: {_some(set(state) ^ names)}")
    with torch.no_grad():
        before = model(tokens[:, :-1])
        try:
            randomise(model, seed=1)
            require(not torch.allclose(model(tokens[:, :-1]), before), "other parameters give the same logits")
        finally:
            model.load_state_dict(state)
        require(torch.equal(model(tokens[:, :-1]), before), "the state dict does not restore the logits")


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3])
