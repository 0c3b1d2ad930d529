"""From a config to a model: every part may refuse its neighbours here, before anything is started."""

import torch
from omegaconf import DictConfig

from gptx.device import pick
from gptx.errors import ConfigError
from gptx.kernel.base import Kernel
from gptx.model import GPT
from gptx.parts import part
from gptx.pos.base import PositionalEncoding
from gptx.shape import Shape
from gptx.window.base import Window


def build(cfg: DictConfig, vocab_size: int, device: str | None = None) -> GPT:
    """The freshly initialised model of a config.

    Args:
        cfg: what `gptx.compose` returns.
        device: the kind of device it is for, where that is not ``cfg.device``.
        vocab_size: what the tokenizer has; checked against ``model.vocab_size``, or used where that is 0.

    Raises:
        ConfigError: the parts do not fit together; the text says which and what would.
    """
    shape = _shape(cfg, vocab_size)
    attention = part(cfg.attention, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)  # for parts that draw their own parameters
        pos = part(cfg.pos, shape, attention.rotary_dim, attention.rotary_heads)
        model = _assemble(cfg, shape, pos, part(cfg.window), part(cfg.kernel, shape, attention.demands))
        if torch.get_default_device().type != "meta":
            model.initialise(cfg.seed)
    kind = pick(device or cfg.device.type).type
    for room in zip(model.windows, model.layer_pos, strict=True):
        if refusal := model.kernel.refuses(*room, kind):
            raise ConfigError(refusal)
    return model


def remarks(cfg: DictConfig, model: GPT) -> list[str]:
    """What a config asks for that this model has no place for: true, but hardly meant."""
    if type(model.pos).at is PositionalEncoding.at or len(set(map(id, model.layer_pos))) > 1:
        return []
    kind = "local" if model.windows[0].local else "global"
    return [
        f"pos={cfg.variant.pos} tells local layers from global ones, of which window={cfg.variant.window} makes all "
        f"{kind}: window=alternating has both"
    ]


def _assemble(cfg: DictConfig, shape: Shape, pos: PositionalEncoding, window: Window, kernel: Kernel) -> GPT:
    return GPT(
        shape,
        attention=lambda: part(cfg.attention, shape),
        ffn=lambda: part(cfg.ffn, shape),
        norm=lambda: part(cfg.norm, shape),
        block=lambda attention, ffn, norm: part(cfg.placement, shape, attention, ffn, norm),
        pos=pos,
        window=window,
        kernel=kernel,
        tie=cfg.model.tie,
    )


def _shape(cfg: DictConfig, vocab_size: int) -> Shape:
    model = cfg.model
    if model.vocab_size and vocab_size > model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's {vocab_size}: "
            "use 0 (what the tokenizer has) or another tokenizer"
        )
    return Shape(
        n_layer=model.n_layer,
        n_head=model.n_head,
        d_model=model.d_model,
        context=model.context,
        vocab_size=model.vocab_size or vocab_size,
        dropout=model.dropout,
        bias=model.bias,
    )
