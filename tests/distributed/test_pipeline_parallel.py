"""strategy=pp: stages of layers compute what a single process computes. What is compared: tests/own/pipelined.py."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from command import OWN, history, until
from conftest import Maker
from helpers_model import advice

import gptx
from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.model.build import build
from gptx.pos.learned import Learned
from gptx.runs import journal
from gptx.strategy.batch_plan import BatchPlan
from gptx.training.best_weights import load_best

sys.path.insert(0, str(OWN))

from pipelined import CASES, COMPILED, OF_FOUR, Case

Found = list[dict[str, dict[str, float]]]  # of each worker: how far apart, by case and kind

EXACT = {"gradients": 1e-5, "told first": 1e-6, "told": 1e-5, "weights": 1e-3, "validation": 1e-6}
BF16 = {"gradients": 2e-2, "told first": 1e-3, "told": 1e-2, "validation": 1e-2}  # Adam's first steps are signs
BF16_WEIGHTS = {"gradients": 5e-2, "told first": 1e-2, "told": 2e-2, "validation": 1e-1}


def launched(make: Maker, work: str, processes: int) -> Found:
    gptx = make(work)
    done = gptx.run("pipelined", work, str(processes), str(gptx.cwd), timeout=900)
    assert (done.code, done.out) == (0, "0\n"), done.err
    assert gptx.orphans() == []
    return [json.loads((gptx.cwd / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def two(make: Maker) -> Found:
    return launched(make, "two", 2)


@pytest.fixture(scope="module")
def four(make: Maker) -> Found:
    return launched(make, "four", 4)


@pytest.fixture(scope="module")
def saved(make: Maker) -> Found:
    return launched(make, "saved", 2)


def check(case: str, found: Found) -> None:
    bounds = BF16_WEIGHTS if "bf16 weights" in case else BF16 if "bf16" in case else EXACT
    assert "weights" in found[0][case]
    for worker in found:
        for kind, bound in bounds.items():
            assert worker[case].get(kind, 0.0) <= bound, (kind, worker[case])


@pytest.mark.parametrize("case", CASES)
def test_two_stages_train_as_one_process(two: Found, case: str) -> None:
    """Losses, gradients, norms, weights, validation."""
    check(case, two)


def test_a_stage_holds_its_own_weights_alone(two: Found) -> None:
    apart, tied = (one["learned"] for one in two), [one["rope"] for one in two]
    held = [(one["weights here"], one["weights in all"]) for one in apart]
    assert held[0][0] + held[1][0] == held[0][1]
    embedding = 31 * 16  # lies in both, where it is the output layer too
    assert sum(one["weights here"] for one in tied) == tied[0]["weights in all"] + embedding


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_FOUR)
def test_four_processes_train_as_one(four: Found, case: str) -> None:
    """As four stages, or as two that are cut in two, or as fsdp."""
    check(case, four)


@pytest.mark.slow
def test_compiled_blocks_train_as_one_process(make: Maker) -> None:
    found = launched(make, "compiled", 2)
    for case in COMPILED:
        check(case, found)


def test_a_checkpoint_of_stages_is_one_of_a_single_process(saved: Found) -> None:
    """Written by the one and read by the other, either way: the same weights and moments, and the same next step."""
    for worker in saved:
        assert len(worker) == 6
        for way, apart in worker.items():
            assert apart["tensors"] == 0, way
            assert apart["next step"] < 1e-6, way


def best_weights(folder: Path) -> torch.Tensor:
    weights, _ = load_best(folder / "checkpoints")
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.mark.slow
def test_it_goes_on_after_sigterm_as_if_nothing_had_been(make: Maker) -> None:
    words = ["--config-dir", str(OWN / "conf"), "kernel=fragile", "strategy=pp", "model.n_layer=2", "pos=t5"]
    words += ["model.dropout=0.1", "trainer.max_steps=60"]
    whole, stopped = make("whole"), make("stopped")
    assert (done := whole(*words)).code == 0, done.err
    run = stopped.start(*words, PAUSE_AT="131", PAUSE_IN=str(stopped.cwd), SLOW="0.01")
    assert until((stopped.cwd / "paused-0").exists, run), run.communicate()  # the second stage waits for the first
    run.send_signal(signal.SIGTERM)
    (stopped.cwd / "go-when-told").touch()
    _, err = run.communicate()
    assert run.returncode == 75, err  # EX_TEMPFAIL: try again
    assert journal.status(stopped.folder) == "interrupted"
    assert (done := stopped(*words)).code == 0, done.err
    assert history(stopped.folder) == history(whole.folder)
    assert torch.equal(*(best_weights(run.folder) for run in (stopped, whole)))
    assert stopped.orphans() == []


# ------------------------------------------------------------------------- what it refuses


def asked(processes: int, *words: str) -> None:
    """What preflight asks."""
    cfg = gptx.compose(["device=cpu", "precision=fp32", "strategy=pp", "trainer.batch_size=8", *words])
    strategy = part(cfg.strategy)
    with torch.device("meta"):
        strategy.check(build(cfg, 65), processes, BatchPlan.of(cfg, strategy.batch_slices(processes)))


@pytest.mark.parametrize(
    ("processes", "words", "texts"),
    [
        (4, ["model.n_layer=6"], ["model.n_layer=6", "4 stages", "strategy.pp=2", "model.n_layer=8"]),
        (2, ["model.n_layer=1"], ["model.n_layer=1", "2 stages", "model.n_layer=2"]),
        (4, ["strategy.pp=3", "model.n_layer=6"], ["strategy.pp=3", "4 processes"]),
        (4, ["trainer.micro_batch=2"], ["2 rows", "4 stages", "trainer.micro_batch=4"]),
        (4, ["trainer.batch_size=2"], ["2 rows", "4 stages", "trainer.batch_size=4"]),
        (2, ["strategy.chunks=3"], ["strategy.chunks=3", "8 rows", "strategy.chunks=2"]),
        (4, ["strategy.chunks=2"], ["strategy.chunks=2", "4 stages", "strategy.chunks=4"]),
    ],
)
def test_what_cannot_be_cut_is_refused_with_what_can(processes: int, words: list[str], texts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(processes, *words)
    message = str(caught.value)
    assert "\n" not in message
    assert all(text in message for text in texts), message
    for key, value in advice(message).items():
        left = [word for word in words if key.startswith("model.") or not word.startswith(key)]
        if key != "strategy.nproc":
            asked(processes, *left, f"{key}={value}")


def test_experts_with_a_loss_of_their_own_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ffn=moe .* use strategy=fsdp"):
        asked(2, "ffn=moe")


@pytest.mark.parametrize("word", ["strategy.reduce_dtype=bf16", "strategy.reshard=false", "strategy.prefetch=1"])
def test_what_would_do_nothing_is_refused(word: str) -> None:
    """Where a stage is one process, nothing is gathered or summed."""
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        asked(2, word)
    asked(4, word, "strategy.pp=2")


def test_an_encoding_that_embeds_and_turns_heads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be needed whole in every stage."""
    monkeypatch.setattr(Learned, "biased", True)
    with pytest.raises(ConfigError, match=r"pos=learned .* use strategy=fsdp"):
        asked(2, "pos=learned")


def test_negative_numbers_are_refused() -> None:
    for word in ("strategy.pp=-1", "strategy.chunks=-1"):
        with pytest.raises(ConfigError, match=word):
            asked(2, word)


@pytest.mark.parametrize(("rows", "stages", "chunks"), [(8, 2, 8), (64, 2, 8), (12, 2, 6), (11, 2, 11), (7, 4, 7)])
def test_a_micro_batch_is_cut_into_about_four_chunks_a_stage(rows: int, stages: int, chunks: int) -> None:
    assert part(Case([]).cfg.strategy).chunks_of(rows, stages) == chunks
