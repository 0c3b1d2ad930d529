"""gptx trains and compares variants of GPT: which is better, by how much, how certainly, and at what cost?

    cfg = gptx.compose(["attention=gqa", "pos=rope"])   # a checked config
    model = gptx.build(cfg)                             # model(tokens (B, T)) -> logits (B, T, vocab)
    model, tokenizer = gptx.load("outputs/default/…")   # a trained run

Modules are imported where they are used, so that a typo on the command line is reported without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from omegaconf import DictConfig

    from gptx.model.gpt import GPT
    from gptx.tokenizer.base import Tokenizer

__all__ = ["build", "compose", "load"]


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module 'gptx' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gptx")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+checkout"


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> DictConfig:
    """The checked config of a run, e.g. ``compose(["attention=gqa", "trainer.max_steps=100"])``.

    The checks are those of the command, except that no text is read and no device needs to be here. The config is
    read-only: ``trainer.max_steps=100`` is given as an override, which is checked.

    Args:
        config_dir: a folder with options of your own, as ``--config-dir`` of the command. Their modules are imported
            from the Python path.

    Raises:
        ConfigError: an unknown option or key, a value of the wrong type or out of range, or parts that do not fit
            together; the message is one line.
    """
    from contextlib import nullcontext
    from pathlib import Path

    from gptx.config.compose import compose_plain
    from gptx.config.locked import locked
    from gptx.config.own_options import own_options

    with nullcontext() if config_dir is None else own_options(Path(config_dir), "config_dir"):
        cfg = locked(compose_plain(overrides))
    from gptx.training.preflight import check

    check(cfg)
    return cfg


def build(cfg: DictConfig) -> GPT:
    """The freshly initialised model of a config; ``model(tokens)``: (B, T) int64 -> logits (B, T, vocab).

    The vocabulary has ``model.vocab_size`` ids, or those of the tokenizer if that is 0. A tokenizer that learns its
    vocabulary is fitted on the corpus first.

    Raises:
        ConfigError: two parts are incompatible; the message names them and what would work.
    """
    from gptx.data.from_config import tokenizer_of
    from gptx.model.build import build

    return build(cfg, tokenizer_of(cfg).n_vocab)


def load(
    run_dir: str | Path, device: str = "auto", trust: Iterable[str] = (), trust_code: bool = False
) -> tuple[GPT, Tokenizer]:
    """The best model of a run, in eval mode on ``device``, and its tokenizer.

    A run folder is data: only options of gptx are built, unless the run's other modules are trusted.

    Args:
        trust: modules of your own on the Python path that the run may use, e.g. ``["my_windows"]``; their code is run.
        trust_code: run the copy of such modules in the run folder, if it has the hashes that the journal recorded.

    Raises:
        CheckpointError: no model was saved yet, or its file is damaged.
        ConfigError: there is no such folder, its config is damaged, or it names a module that is not trusted.
    """
    from gptx.training.load_model import load

    return load(run_dir, device, trust, trust_code)
