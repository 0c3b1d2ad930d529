"""One process of a run: train to the end, then generate a sample and write the result."""

import contextlib
import statistics
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gptx.config.instantiate import part
from gptx.config.plain_dict import PlainConfig
from gptx.errors import Interrupted
from gptx.model import sampling
from gptx.model.build import build
from gptx.processes.signals import record_stop_signals
from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.measurements import Measurements
from gptx.runs.metrics import CURVES, METRICS
from gptx.runs.records import RunEndReason, SampleRecord
from gptx.strategy.base import Strategy
from gptx.training.progress import ProgressBar
from gptx.training.trainer import Trainer


def fit(cfg: DictConfig, run_dir: str, until: int = 0) -> None:
    """Train from the last checkpoint to the end.

    Args:
        until: stop at this step with a checkpoint and without a result; 0: train to the end.

    Raises:
        Interrupted: a signal stopped the training after a checkpoint.
    """
    end = until or cfg.trainer.max_steps
    strategy: Strategy = part(cfg.strategy)
    with strategy.open(cfg.device.type), contextlib.ExitStack() as stack:
        first = strategy.rank == 0
        writer = stack.enter_context(Journal(Path(run_dir))) if first else None
        stop = stack.enter_context(record_stop_signals())
        trainer = Trainer(cfg, RunFolder(Path(run_dir)), strategy, writer)
        stack.callback(trainer.close)
        title = f"{cfg.variant.model} {Path(run_dir).name}"
        with ProgressBar(title, end, trainer.state.step, first, cfg.runtime.brief) as bar:
            trainer.run(stop, bar, end)
        if not until:
            _finish(trainer)


def worker(cfg: PlainConfig, run_dir: str, until: int = 0) -> None:
    """Call `fit` in a worker process. The config is a plain dict, and an interruption is not an error."""
    with contextlib.suppress(Interrupted):
        fit(OmegaConf.create(cfg), run_dir, until)


def _finish(trainer: Trainer) -> None:
    """Generate a sample and write the result. All ranks take part in collecting the weights."""
    weights = trainer.strategy.weights(trainer.model) if trainer.cfg.runtime.sample_tokens else {}
    if trainer.journal is None:
        return
    sample = _sample(trainer, trainer.journal, weights) if weights else ""
    rows = [record.values for record in journal.metrics(trainer.folder.path)]
    speeds = [values["perf/tokens_per_s"] for values in rows if "perf/tokens_per_s" in values]
    train = [values["train/loss"] for values in rows if "train/loss" in values]
    others = [int(values["perf/other_runs"]) for values in rows if "perf/other_runs" in values]
    measured = Measurements(
        **_validation_metrics(rows, trainer.state.best.values),
        best_step=trainer.state.best.step,
        train_loss=train[-1] if train else None,
        tokens_per_s=statistics.median(speeds),
        other_runs=max(others, default=None),
        peak_memory_bytes=trainer.state.peak_memory,
        steps=trainer.state.step,
        tokens=trainer.state.tokens(trainer.meter.tokens_per_step),
        sample=sample,
    )
    completed = trainer.state.step >= trainer.cfg.trainer.max_steps
    trainer.folder.end(RunEndReason.COMPLETED if completed else RunEndReason.EARLY_STOPPED, measured)


def _validation_metrics(rows: list[dict[str, float]], best: dict[str, float]) -> dict[str, float]:
    """The validation metrics of a result, by their keys.

    Args:
        rows: the values of all metrics records.
        best: those of the best validation.
    """
    last = next(values for values in reversed(rows) if "val/loss" in values)
    if "val/loss_select" not in last:  # a run of an earlier version: its best validation is its result
        last, best = best, {}
    found = {key: last[curve] for key, curve in CURVES.items() if curve.startswith("val/") and curve in last}
    views = (metric for metric in METRICS if metric.view == "best" and best)
    return found | {view.key: best[CURVES[view.key.removesuffix("_best")]] for view in views}


def _sample(trainer: Trainer, writer: Journal, weights: dict[str, Tensor]) -> str:
    """Generate text with a new model, because this rank may hold only a shard of the trained one."""
    cfg, tokenizer = trainer.cfg, trainer.tokens.tokenizer
    model = build(cfg, tokenizer.n_vocab).to(trainer.strategy.device)
    model.load_state_dict(weights)
    count = cfg.runtime.sample_tokens
    text = "".join(sampling.text(model, tokenizer, "", count, seed=cfg.seed, autocast=trainer.autocast))
    samples = trainer.folder.path / "samples"
    samples.mkdir(exist_ok=True)
    (samples / f"step-{trainer.state.step:08d}.txt").write_text(text, encoding="utf-8")
    writer.write(SampleRecord(step=trainer.state.step, text=text))
    return text
