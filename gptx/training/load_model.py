"""Load the best model of a run."""

from collections.abc import Iterable
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gptx.config.instantiate import option_class
from gptx.config.overrides import conf_dir
from gptx.config.saved_config import config_errors
from gptx.errors import CheckpointError, ConfigError
from gptx.hardware.device import pick
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.runs import journal
from gptx.runs.damaged_files import readable
from gptx.runs.records import RunStatus
from gptx.tokenizer.base import Tokenizer
from gptx.tokenizer.base import load as load_tokenizer
from gptx.training.best_weights import load_best
from gptx.training.trusted_config import trusted_config


def load(
    run_dir: str | Path, device: str = "auto", trust: Iterable[str] = (), trust_code: bool = False
) -> tuple[GPT, Tokenizer]:
    """The best model of a run, in eval mode on ``device``, and its tokenizer. See `gptx.load`."""
    run = Path(run_dir)
    cfg = trusted_config(run, trust, trust_code)
    weights = _weights(run)
    with config_errors(run):
        tokenizer = load_tokenizer(run / "tokenizer.json", option_class(cfg.tokenizer))
        with torch.device("meta"):  # a config that does not belong to the weights could name a model of any size
            expected = _built(cfg, tokenizer.n_vocab, device).state_dict()
        _check_sizes(run, weights, expected)
        model = _built(cfg, tokenizer.n_vocab, device)
    model.load_state_dict(weights)
    return model.to(pick(device)).eval(), tokenizer


def _weights(run: Path) -> dict[str, Tensor]:
    """The best weights of a run; if there are none, the error says what has become of the run."""
    try:
        return load_best(run / "checkpoints")[0]
    except CheckpointError:
        if (run / "checkpoints/best/model.safetensors").exists():
            raise
        raise CheckpointError(f"there are no best weights in {run / 'checkpoints'}: {_progress(run)}") from None


def _progress(run: Path) -> str:
    """Why a run has no best weights."""
    with readable(run / journal.NAME):
        status, step = journal.status(run), max((record.step for record in journal.metrics(run)), default=0)
    if status is RunStatus.FINISHED:
        return "the run is finished, but the file is missing"
    hint = "wait for it" if status is RunStatus.RUNNING else "the command that started it continues it"
    return f"the run is {status} at step {step} and has not reached its first validation; {hint}"


def _check_sizes(run: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that the weights are those of the model that the config describes.

    Raises:
        CheckpointError: names the first one that is not.
    """
    for name in (*expected, *(name for name in weights if name not in expected)):
        given, wanted = (tuple(side[name].shape) if name in side else None for side in (weights, expected))
        if given != wanted:
            missing = "it has none in the file" if given is None else f"its shape in the file is {given}"
            named = "the model has no such weight" if wanted is None else f"the config makes it {wanted}"
            raise CheckpointError(f"{run}: the weights are of another model: {name}: {missing}, and {named}")


def _built(cfg: DictConfig, vocab_size: int, device: str) -> GPT:
    try:
        return build(cfg, vocab_size, device)
    except ConfigError:  # the kernel needs another device; kernels have no weights, so any other one computes the same
        cfg.kernel = OmegaConf.load(conf_dir() / "kernel" / "auto.yaml")
        return build(cfg, vocab_size, device)
