"""Load the best model of a run."""

from pathlib import Path

from omegaconf import OmegaConf

from gptx.config.overrides import conf_dir
from gptx.config.saved_config import load_config
from gptx.errors import ConfigError
from gptx.hardware.device import pick
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.tokenizer.base import Tokenizer
from gptx.tokenizer.base import load as load_tokenizer
from gptx.training.best_weights import load_best


def load(run_dir: str | Path, device: str = "auto") -> tuple[GPT, Tokenizer]:
    """The best model of a run, in eval mode on ``device``, and its tokenizer. See `gptx.load`."""
    run = Path(run_dir)
    weights, _ = load_best(run / "checkpoints")
    cfg = load_config(run)
    tokenizer = load_tokenizer(run / "tokenizer.json")
    try:
        model = build(cfg, tokenizer.n_vocab, device)
    except ConfigError:  # the kernel needs another device; kernels have no weights, so any other one computes the same
        cfg.kernel = OmegaConf.load(conf_dir() / "kernel" / "auto.yaml")
        model = build(cfg, tokenizer.n_vocab, device)
    model.load_state_dict(weights)
    return model.to(pick(device)).eval(), tokenizer
