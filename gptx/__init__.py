"""gptx trains and compares variants of GPT: which is better, by how much, how certainly, and at what cost?

    cfg = gptx.compose(["attention=gqa", "pos=rope"])   # a checked config
    model = gptx.build(cfg)                             # model(tokens (B, T)) -> logits (B, T, vocab)
    model, tokenizer = gptx.load("outputs/default/…")   # a trained run
    gptx.compare_runs("outputs/pos_ablation")           # which variants are better, by how much
    gptx.results("outputs"), gptx.curves("outputs")     # the figures of all runs as pandas frames

Modules are imported where they are used, so that a typo on the command line is reported without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd
    from omegaconf import DictConfig

    from gptx.compare.comparison import Comparison
    from gptx.model.gpt import GPT
    from gptx.tokenizer.base import Tokenizer

__all__ = ["build", "compare_runs", "compose", "curves", "load", "results"]


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
            from the Python path or from that folder.

    Raises:
        ConfigError: an unknown option or key, a value of the wrong type or out of range, or parts that do not fit
            together; the message is one line.
    """
    from contextlib import nullcontext
    from pathlib import Path

    from gptx.config.compose import compose_plain
    from gptx.config.locked import locked
    from gptx.config.own_options import own_options
    from gptx.errors import ConfigError

    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise ConfigError(f"overrides={overrides!r}: expected a list of texts, such as ['attention=gqa', 'pos=rope']")
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


def results(paths: str | Path | Iterable[str | Path] = "outputs", *, all_keys: bool = False) -> pd.DataFrame:
    """The runs in some folders, finished or not: one row for each run, with its variant, seed and metrics.

    Args:
        all_keys: also the config keys that only differ between options.

    Raises:
        GptxError: a path does not exist.
    """
    from gptx.compare.frames import results
    from gptx.compare.selection import find_runs

    return results(find_runs(paths, all_runs=True).rows, all_keys=all_keys)


def curves(paths: str | Path | Iterable[str | Path] = "outputs") -> pd.DataFrame:
    """The curves of the runs in some folders in long form: run, step, tokens, seconds, metric, value.

    Raises:
        GptxError: a path does not exist.
    """
    from gptx.compare.selection import find_runs

    return find_runs(paths, all_runs=True).curves


def compare_runs(
    paths: str | Path | Iterable[str | Path] = "outputs",
    *,
    baseline: str = "",
    margin: float | None = None,
    metric: str = "",
    study: str | None = None,
) -> Comparison:
    """Compare the variants in some folders with a baseline, as ``gptx compare`` does; a notebook shows the result.

    Args:
        baseline: the arm that others are compared with, e.g. ``"attention=mha pos=rope"``; "": that of the study, or
            else the default options, or else the first arm.
        margin: differences below it do not matter, in the metric's unit (MB for memory); None: that of the study, or
            else 0.01 nats per token for losses.
        metric: a key of `gptx.runs.metrics.METRICS`; "": val_loss, or val_bpb_whole if the tokenizers differ and all
            runs were validated on the same text.
        study: only the runs of this study.

    Raises:
        GptxError: a path, the study, the baseline or the metric does not exist.
    """
    from gptx.compare.comparison import compare
    from gptx.compare.selection import find_runs

    return compare(find_runs(paths, study), baseline=baseline, margin=margin, metric=metric)
