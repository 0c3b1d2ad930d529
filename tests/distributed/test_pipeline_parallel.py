"""strategy=pp: resume after a signal, the split of a micro-batch into chunks, and rejected configs."""

import signal
from pathlib import Path

import pytest
import torch
from command import OWN_CONF, history, until
from composed import composed
from conftest import Maker
from helpers_model import advice

from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.model.build import build
from gptx.pos.learned import Learned
from gptx.runs import journal
from gptx.strategy.batch_plan import BatchPlan
from gptx.training.best_weights import load_best


def best_weights(folder: Path) -> torch.Tensor:
    weights, _ = load_best(folder / "checkpoints")
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.mark.full
def test_run_resumes_after_sigterm_with_equal_results(make: Maker) -> None:
    words = [*OWN_CONF, "kernel=fragile", "strategy=pp", "model.n_layer=2", "pos=t5", "model.dropout=0.1"]
    words.append("trainer.max_steps=60")
    undisturbed, stopped = make("undisturbed"), make("stopped")
    assert (done := undisturbed(*words)).code == 0, done.err
    run = stopped.start(*words, PAUSE_AT="131", PAUSE_IN=str(stopped.cwd), SLOW="0.01")
    assert until((stopped.cwd / "paused-0").exists, run), run.communicate()  # the second stage waits for the first
    run.send_signal(signal.SIGTERM)
    (stopped.cwd / "go-after-signal").touch()
    _, err = run.communicate()
    assert run.returncode == 75, err  # EX_TEMPFAIL: try again
    assert journal.status(stopped.folder) == "interrupted"
    assert (done := stopped(*words)).code == 0, done.err
    assert history(stopped.folder) == history(undisturbed.folder)
    assert torch.equal(*(best_weights(run.folder) for run in (stopped, undisturbed)))
    assert stopped.orphans() == []


def check(processes: int, *overrides: str) -> None:
    """Let the strategy check a config, as preflight does."""
    cfg = composed("device=cpu", "precision=fp32", "strategy=pp", "trainer.batch_size=8", *overrides)
    strategy = part(cfg.strategy)
    with torch.device("meta"):
        strategy.check(build(cfg, 65), processes, BatchPlan.of(cfg, strategy.batch_slices(processes)))


@pytest.mark.parametrize(
    ("processes", "overrides", "texts"),
    [
        (4, ["model.n_layer=6"], ["model.n_layer=6", "4 stages", "strategy.pp=2", "model.n_layer=8"]),
        (2, ["model.n_layer=1"], ["model.n_layer=1", "2 stages", "model.n_layer=2"]),
        (4, ["strategy.pp=3", "model.n_layer=6"], ["strategy.pp=3", "4 processes"]),
        (4, ["trainer.micro_batch=2"], ["2 rows", "4 stages", "trainer.micro_batch=4"]),
        (4, ["trainer.batch_size=2"], ["2 rows", "4 stages", "trainer.batch_size=4"]),
        (2, ["strategy.chunks=3"], ["strategy.chunks=3", "8 (rows of a micro-batch)", "strategy.chunks=2"]),
        (4, ["strategy.chunks=2"], ["strategy.chunks=2", "at least 4 (stages)", "strategy.chunks=4"]),
    ],
)
def test_advice_of_a_rejection_is_accepted(processes: int, overrides: list[str], texts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(processes, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(text in message for text in texts), message
    for key, value in advice(message).items():
        others = [word for word in overrides if key.startswith("model.") or not word.startswith(key)]
        if key != "strategy.nproc":
            check(processes, *others, f"{key}={value}")


def test_experts_with_side_losses_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"ffn=moe .* use strategy=fsdp"):
        check(2, "ffn=moe")


@pytest.mark.parametrize("word", ["strategy.reduce_dtype=bf16", "strategy.reshard=false", "strategy.prefetch=1"])
def test_sharding_keys_are_rejected_where_no_stage_is_sharded(word: str) -> None:
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        check(2, word)
    check(4, word, "strategy.pp=2")


def test_encoding_with_weights_for_embedding_and_heads_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learned, "biased", True)
    monkeypatch.setattr(Learned, "bias", lambda self, where: None)
    with pytest.raises(ConfigError, match=r"pos=learned .* use strategy=fsdp"):
        check(2, "pos=learned")


@pytest.mark.parametrize("word", ["strategy.pp=-1", "strategy.chunks=-1"])
def test_negative_numbers_are_rejected(word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        check(2, word)


@pytest.mark.parametrize(("rows", "stages", "chunks"), [(8, 2, 8), (64, 2, 8), (12, 2, 6), (11, 2, 11), (7, 4, 7)])
def test_micro_batch_is_split_into_about_four_chunks_per_stage(rows: int, stages: int, chunks: int) -> None:
    strategy = part(composed("strategy=pp").strategy)
    assert strategy.chunks_of(rows, stages) == chunks
