"""Small models with random weights, on which properties are checked, and random tokens for them.

Letters: B batch, T time.
"""

from collections.abc import Iterator

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from gptx.cli import log
from gptx.config.axes import own_axes
from gptx.errors import reason
from gptx.model.build import build
from gptx.model.gpt import GPT

CONTEXT, VOCAB = 12, 11
WINDOW = 5  # upper limit of the sizes of gptx's windows, so that they hide part of a row
HEAD_DIM = 8  # upper limit
STD = 0.4  # of the random weights


def small_model(cfg: DictConfig, dtype: torch.dtype = torch.float64) -> GPT:
    """A model of the variants of ``cfg``, in eval mode, with random weights.

    It has 2 layers, `CONTEXT` tokens and `VOCAB` ids. Heads of more than `HEAD_DIM` dimensions are reduced to that; the
    sizes of ``cfg`` are used where a variant does not work with smaller ones, for example because a key of the user's
    own is ``${model.d_model}``, which is resolved.

    Raises:
        ConfigError: the variants reject one another.
        Exception: an exception of the user's own constructor.
    """
    *smaller, last = _sizes(cfg)
    for layers, d_model in smaller:
        try:
            model = _random_model(cfg, layers, d_model, dtype)
            if d_model < cfg.model.d_model:
                model(rows(1, CONTEXT))
            return model
        except Exception as error:  # another size is tried; the last one raises what is wrong with it
            log.debug("no model with %d layers and d_model=%d: %s", layers, d_model, reason(error))
    return _random_model(cfg, *last, dtype)


def _random_model(cfg: DictConfig, n_layer: int, d_model: int, dtype: torch.dtype) -> GPT:
    model = build(small_config(cfg, n_layer, d_model), VOCAB, "cpu")
    randomise(model)
    return model.to(dtype).eval()


def _sizes(cfg: DictConfig) -> Iterator[tuple[int, int]]:
    """Layers and d_model, the smallest first."""
    d_model = cfg.model.d_model
    yield 2, min(d_model, cfg.model.n_head * HEAD_DIM)
    yield 2, d_model
    yield cfg.model.n_layer, d_model


def small_config(cfg: DictConfig, n_layer: int, d_model: int) -> DictConfig:
    """A copy of ``cfg`` for a small model without dropout. gptx's windows are reduced to at most `WINDOW` tokens; the
    keys of the user's own variants are unchanged."""
    small = cfg.copy()
    small.model.update(n_layer=n_layer, d_model=d_model, context=CONTEXT, vocab_size=0, dropout=0.0)
    small.activation_checkpointing, small.precision.dtype = False, "fp32"
    if "window" not in own_axes(cfg):
        for key, value in small.window.items():
            if type(value) is int and value > WINDOW:
                small.window[key] = WINDOW
    return small


def randomise(module: nn.Module, seed: int = 0, std: float = STD) -> None:
    """Draw every parameter from a normal distribution: zeros and ones would hide what they multiply."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, std, generator=stream)


def rows(batch: int, length: int, seed: int = 0) -> Tensor:
    """Random tokens (B, T) in which neighbours differ."""
    stream = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, VOCAB, (batch, length), generator=stream)
    return steps.cumsum(1) % VOCAB
