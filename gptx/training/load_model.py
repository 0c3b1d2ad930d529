"""Load the best model of a run."""

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gptx.config.instantiate import option_class
from gptx.config.overrides import conf_dir
from gptx.config.saved_config import config_errors, load_config
from gptx.errors import CheckpointError, ConfigError
from gptx.hardware.device import pick
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.tokenizer.base import Tokenizer
from gptx.tokenizer.base import load as load_tokenizer
from gptx.training.best_weights import load_best


def load(run_dir: str | Path, device: str = "auto", trust: Iterable[str] = ()) -> tuple[GPT, Tokenizer]:
    """The best model of a run, in eval mode on ``device``, and its tokenizer. See `gptx.load`."""
    run = Path(run_dir)
    cfg = load_config(run, trust)
    weights, _ = load_best(run / "checkpoints")
    with config_errors(run):
        tokenizer = load_tokenizer(run / "tokenizer.json", option_class(cfg.tokenizer))
        model = _built(cfg, tokenizer.n_vocab, device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{run}: the weights are of another model: {' '.join(str(error).split())}") from None
    return model.to(pick(device)).eval(), tokenizer


def _built(cfg: DictConfig, vocab_size: int, device: str) -> GPT:
    try:
        return build(cfg, vocab_size, device)
    except ConfigError:  # the kernel needs another device; kernels have no weights, so any other one computes the same
        cfg.kernel = OmegaConf.load(conf_dir() / "kernel" / "auto.yaml")
        return build(cfg, vocab_size, device)
