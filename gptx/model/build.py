"""Builds a model from a config. Every part may reject the other parts here, before any process is started."""

import zlib
from typing import Any

import torch
from omegaconf import DictConfig

from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.hardware.device import compute_dtype, pick
from gptx.model.gpt import GPT
from gptx.model.initialise import initialise


def build(cfg: DictConfig, vocab_size: int, device: str | torch.device | None = None) -> GPT:
    """Return the initialised model of a config.

    Args:
        cfg: a config as `gptx.compose` returns it.
        vocab_size: the tokenizer's vocabulary size; used if ``model.vocab_size`` is 0, otherwise checked against it.
        device: the device, or its type, on which the model will run; None: ``cfg.device``.

    Raises:
        ConfigError: the parts do not fit together; the message names them and what would work.
    """
    shape = _shape(cfg, vocab_size)
    with torch.random.fork_rng(devices=[]):
        model = _assemble(cfg, shape)
        if torch.get_default_device().type != "meta":
            initialise(model, cfg.seed)
    _check_kernel(cfg, model, pick(device or cfg.device.type))
    if cfg.data.get("document_mask", False) and any(ffn.tokens_compete for ffn in model.ffns):
        raise ConfigError(
            f"ffn={cfg.variant.ffn} with ffn.capacity={cfg.ffn.capacity:g} lets the documents of a row compete for its "
            "experts, which data.document_mask=true forbids; use ffn.capacity=0"
        )
    return model


def _assemble(cfg: DictConfig, shape: ModelShape) -> GPT:
    """Construct all parts. The random numbers that a part draws in its constructor depend on no other part."""
    attentions = [_layer_part(cfg, "attention", shape, i).at(i, shape.n_layer) for i in range(shape.n_layer)]
    first = attentions[0]
    torch.default_generator.manual_seed(cfg.seed)
    pos = part(cfg.pos, shape, first.rotary_dim, first.rotary_heads)
    window, kernel = part(cfg.window), part(cfg.kernel, shape, first.demands)

    def norm() -> Any:
        return part(cfg.norm, shape)

    ffns = (_layer_part(cfg, "ffn", shape, layer) for layer in range(shape.n_layer))
    blocks = [part(cfg.placement, shape, *inner, norm) for inner in zip(attentions, ffns, strict=True)]
    return GPT(shape, blocks, norm, pos, window, kernel, tie=cfg.model.tie, recompute=cfg.activation_checkpointing)


def _layer_part(cfg: DictConfig, axis: str, shape: ModelShape, layer: int) -> Any:
    """Construct the attention or FFN of one layer, with its own random stream."""
    torch.default_generator.manual_seed(zlib.crc32(f"{cfg.seed} {axis} {layer}".encode()))
    return part(cfg[axis], shape)


def _check_kernel(cfg: DictConfig, model: GPT, device: torch.device) -> None:
    """Raise ConfigError if the kernel cannot compute a layer, packed documents or the precision."""
    kernel, choice = model.kernel, cfg.variant
    for window, pos in zip(model.windows, model.layer_pos, strict=True):
        if reason := kernel.rejects(window, pos, device.type):
            named = ", ".join(f"{axis}={choice[axis]}" for axis in ("attention", "pos", "window"))
            raise ConfigError(f"kernel={choice.kernel} with {named}: {reason}")
    if not kernel.supports_packing and cfg.data.get("document_mask", False):
        raise ConfigError(f"kernel={choice.kernel} supports no document mask (data.document_mask); use kernel=auto")
    if not kernel.supports_fp32 and compute_dtype(cfg.precision.dtype, device) == torch.float32:
        raise ConfigError(
            f"kernel={choice.kernel} computes in bf16, given precision={choice.precision}; use kernel=auto"
        )


def remarks(cfg: DictConfig, model: GPT) -> list[str]:
    """Return remarks on options that are valid but have no effect in this model."""
    remarks = []
    window = cfg.variant.window
    if window != "full" and all(one.covers(cfg.model.context) for one in model.windows):
        remarks.append(
            f"window={window} hides nothing in rows of model.context={cfg.model.context} tokens: it is equal to "
            "window=full"
        )
    if not model.pos.by_window or len(set(map(id, model.layer_pos))) > 1:
        return remarks
    kind = "local" if model.windows[0].local else "global"
    remarks.append(
        f"pos={cfg.variant.pos} distinguishes local and global layers, but with window={window} all layers are "
        f"{kind}; window=alternating has both kinds"
    )
    return remarks


def _shape(cfg: DictConfig, vocab_size: int) -> ModelShape:
    model = cfg.model
    if model.vocab_size and vocab_size > model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's {vocab_size}; "
            "use model.vocab_size=0 (the tokenizer's) or another tokenizer"
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
