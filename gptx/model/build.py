"""From a config to a model: every part may refuse its neighbours here, before anything is started."""

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig

from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.hardware.device import compute_dtype, pick
from gptx.kernel.base import Kernel
from gptx.model.gpt import GPT
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


def build(cfg: DictConfig, vocab_size: int, device: str | torch.device | None = None) -> GPT:
    """The freshly initialised model of a config.

    Args:
        cfg: what `gptx.compose` returns.
        device: the device it is for, or its kind, where that is not ``cfg.device``.
        vocab_size: what the tokenizer has; checked against ``model.vocab_size``, or used where that is 0.

    Raises:
        ConfigError: the parts do not fit together; the text says which and what would.
    """
    shape = _shape(cfg, vocab_size)
    attention = part(cfg.attention, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)  # for what an encoding draws itself
        pos = part(cfg.pos, shape, attention.rotary_dim, attention.rotary_heads)
        model = _assemble(cfg, shape, pos, part(cfg.window), part(cfg.kernel, shape, attention.demands))
        model.recompute = cfg.activation_checkpointing
        if torch.get_default_device().type != "meta":
            model.initialise(cfg.seed)
    _check_kernel(cfg, model, pick(device or cfg.device.type))
    if cfg.data.get("document_mask", False) and any(ffn.shares_rows for ffn in model.ffns):
        raise ConfigError(
            f"ffn={cfg.variant.ffn} with ffn.capacity={cfg.ffn.capacity:g} lets the documents of a row compete for its "
            "experts, which data.document_mask=true forbids: ffn.capacity=0 would do"
        )
    return model


def _check_kernel(cfg: DictConfig, model: GPT, device: torch.device) -> None:
    """Let the kernel refuse a layer, packed documents or the precision."""
    kernel, choice = model.kernel, cfg.variant
    for room in zip(model.windows, model.layer_pos, strict=True):
        if refusal := kernel.refuses(*room, device.type):
            named = ", ".join(f"{axis}={choice[axis]}" for axis in ("attention", "pos", "window"))
            raise ConfigError(f"kernel={choice.kernel} with {named}: {refusal}")
    if not kernel.packs and cfg.data.get("document_mask", False):
        raise ConfigError(f"kernel={choice.kernel} cannot hide packed documents (data.document_mask): use kernel=auto")
    if not kernel.fp32 and compute_dtype(cfg.precision.dtype, device) == torch.float32:
        raise ConfigError(
            f"kernel={choice.kernel} computes in bf16, given precision={choice.precision}: use kernel=auto"
        )


def remarks(cfg: DictConfig, model: GPT) -> list[str]:
    """What a config asks for that this model has no place for: true, but hardly meant."""
    said = []
    context = f"model.context={cfg.model.context}"
    if cfg.variant.window != "full" and all(window.covers(cfg.model.context) for window in model.windows):
        said.append(f"window={cfg.variant.window} hides nothing of a row of {context} tokens: it is window=full there")
    if type(model.pos).at is PositionalEncoding.at or len(set(map(id, model.layer_pos))) > 1:
        return said
    kind = "local" if model.windows[0].local else "global"
    said.append(
        f"pos={cfg.variant.pos} tells local layers from global ones, of which window={cfg.variant.window} makes all "
        f"{kind}: window=alternating has both"
    )
    return said


def _assemble(cfg: DictConfig, shape: ModelShape, pos: PositionalEncoding, window: Window, kernel: Kernel) -> GPT:
    return GPT(
        shape,
        attention=_maker(cfg, "attention", shape),
        ffn=_maker(cfg, "ffn", shape),
        norm=lambda: part(cfg.norm, shape),
        block=lambda attention, ffn, norm: part(cfg.placement, shape, attention, ffn, norm),
        pos=pos,
        window=window,
        kernel=kernel,
        tie=cfg.model.tie,
    )


def _maker(cfg: DictConfig, axis: str, shape: ModelShape) -> Callable[[], Any]:
    """Makes one layer's part after the other. What each draws itself depends on its layer, and on no other part."""
    layers = itertools.count()

    def make() -> Any:
        torch.manual_seed(zlib.crc32(f"{cfg.seed} {axis} {next(layers)}".encode()))
        return part(cfg[axis], shape)

    return make


def _shape(cfg: DictConfig, vocab_size: int) -> ModelShape:
    model = cfg.model
    if model.vocab_size and vocab_size > model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's {vocab_size}: "
            "use 0 (what the tokenizer has) or another tokenizer"
        )
    return ModelShape(
        n_layer=model.n_layer,
        n_head=model.n_head,
        d_model=model.d_model,
        context=model.context,
        vocab_size=model.vocab_size or vocab_size,
        dropout=model.dropout,
        bias=model.bias,
    )
