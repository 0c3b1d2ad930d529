"""gptx: is this transformer variant better, by how much, how surely, at what cost?

    cfg = gptx.compose(["attention=gqa", "pos=rope"])   # a checked config
    model = gptx.build(cfg)                             # model(tokens (B, T)) -> logits (B, T, vocab)
    model, tokenizer = gptx.load("outputs/default/…")   # a trained run

Nothing heavy is imported before it is used: a typo on the command line is answered before torch is loaded.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from gptx.config.compose import compose

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gptx.model.gpt import GPT
    from gptx.tokenizer.base import Tokenizer

__all__ = ["build", "compose", "load"]

try:
    __version__ = version("gptx")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+checkout"


def build(cfg: DictConfig) -> GPT:
    """The freshly initialised model of a config; ``model(tokens)``: (B, T) int64 -> logits (B, T, vocab).

    The vocabulary is ``model.vocab_size``, or where that is 0 the tokenizer's (fitted on the corpus if need be).

    Raises:
        ConfigError: parts that do not fit together; the text says which, and what would.
    """
    from gptx.data.from_config import tokenizer
    from gptx.model.build import build as build_model

    return build_model(cfg, tokenizer(cfg).n_vocab)


def load(run_dir: str | Path, device: str = "auto") -> tuple[GPT, Tokenizer]:
    """The best model of a run, in eval mode on ``device``, and its tokenizer. Needs nothing but the run folder.

    Raises:
        CheckpointError: no model was kept yet, or it is damaged.
    """
    from omegaconf import OmegaConf

    from gptx.config.overrides import conf_dir
    from gptx.config.saved import load_config
    from gptx.errors import ConfigError
    from gptx.hardware.device import pick
    from gptx.model.build import build as build_model
    from gptx.tokenizer.base import load as load_tokenizer
    from gptx.training.best_weights import load_best

    run = Path(run_dir)
    weights, _ = load_best(run / "checkpoints")
    cfg = load_config(run)
    tokenizer = load_tokenizer(run / "tokenizer.json")
    try:
        model = build_model(cfg, tokenizer.n_vocab, device)
    except ConfigError:  # its kernel wants another device: kernels have no weights, so any other does
        cfg.kernel = OmegaConf.load(conf_dir() / "kernel" / "auto.yaml")
        model = build_model(cfg, tokenizer.n_vocab, device)
    model.load_state_dict(weights)
    return model.to(pick(device)).eval(), tokenizer
