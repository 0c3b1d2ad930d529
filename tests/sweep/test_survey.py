"""What a sweep knows and shows before it starts: memory, time, and the survey."""

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from breaking import breaking
from command import Gptx
from helpers_model import GROUPS, VOCAB, arm, kernels, options, tiny, yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console

import gptx
from gptx.memory.estimate import RamEstimate, estimate, machine_memory
from gptx.runs.files import write_json
from gptx.runs.folder import RunFolder
from gptx.sweep.execute.isolated import each
from gptx.sweep.execute.launcher import Task
from gptx.sweep.execute.watchdog import Watched
from gptx.sweep.plan import memory_fit, preview, time_estimate
from gptx.sweep.plan.cells import Cell

MB = 10**6
SERVED = {"banded": "sliding"}  # kernels that not every window will do for


def of(group: str, option: str, batch: int, context: int, device: str, dtype: torch.dtype) -> RamEstimate:
    choice = {group: option, "window": SERVED.get(option, "full")} if group == "kernel" else {group: option}
    cfg = tiny(arm(**choice), context=context, d_model=32)
    cfg.trainer.batch_size, cfg.runtime.val_batch, cfg.trainer.micro_batch = batch, batch, 0
    return estimate(cfg, VOCAB, device, dtype, 1)


@pytest.mark.parametrize("group", GROUPS)
def test_memory_of_every_variant_grows_with_batch_and_context(group: str) -> None:
    here = {"cpu": {*kernels("full"), *kernels("sliding")}, "cuda": set(options("kernel")) - {"flash"}}  # a package
    for number, option in enumerate(options(group)):
        dtype = (torch.float32, torch.bfloat16)[number % 2]
        for device in ("cpu", "cuda") if group == "kernel" else ("cpu",):
            if group == "kernel" and option not in here[device]:
                continue
            one, more, longer = (of(group, option, *size, device, dtype) for size in ((4, 16), (8, 16), (4, 64)))
            assert 0 < one.step < more.step < longer.step, option
            assert 0 < one.validation < more.validation < longer.validation, option
            assert one.held > 0
            assert one.total < more.total < longer.total


def strategies() -> Iterator[Any]:
    for name in options("strategy"):
        cfg = tiny(context=64, n_layer=2, n_head=4, d_model=64)
        cfg.trainer.batch_size, cfg.trainer.micro_batch, cfg.variant.strategy = 16, 0, name
        cfg.strategy = yaml("strategy", name)
        yield cfg


def test_strategies_that_cut_weights_hold_less_of_them() -> None:
    held = {
        c.variant.strategy: estimate(c, VOCAB, "cpu", torch.float32, 1 + (c.strategy.nproc != 1)) for c in strategies()
    }
    assert held["single"].held == held["ddp"].held
    assert held["ddp"].step < held["single"].step  # half of the rows
    for name in ("fsdp", "hsdp", "fsdp_tp", "cp", "pp", "tp"):
        assert held[name].held < 0.6 * held["ddp"].held, name


def test_what_saves_memory_is_known_to_save_it() -> None:
    cfg = tiny(context=64, n_layer=4, d_model=64)
    cfg.trainer.batch_size, cfg.trainer.micro_batch = 16, 0
    plain = estimate(cfg, VOCAB, "cpu", torch.float32, 1)
    cfg.activation_checkpointing = True
    assert estimate(cfg, VOCAB, "cpu", torch.float32, 1).step < 0.8 * plain.step
    cfg.activation_checkpointing, cfg.trainer.micro_batch = False, 4
    assert estimate(cfg, VOCAB, "cpu", torch.float32, 1).step < 0.6 * plain.step


MEASURED = {
    "a window, bf16": ["model.context=512", "window=sliding", "trainer.batch_size=16", "precision=bf16"],
    "many tokens": ["model.vocab_size=16000", "model.context=64", "trainer.batch_size=32", "ffn=moe"],
}


@pytest.mark.parametrize("case", MEASURED)
def test_memory_estimate_is_near_what_is_measured(gptx: Gptx, case: str) -> None:
    size = [
        "model.n_layer=3",
        "model.d_model=128",
        "trainer.max_steps=6",
        "trainer.eval_every=2",
        "trainer.val_tokens=4096",
    ]
    done = gptx(*size, *MEASURED[case], "runtime.sample_tokens=0")
    assert done.code == 0, done.err
    result = RunFolder(gptx.folder).result()
    assert result is not None
    cfg = OmegaConf.load(gptx.folder / "config.yaml")
    guess = estimate(cfg, cfg.model.vocab_size or 257, "cpu", getattr(torch, result.dtype), 1)  # type: ignore[arg-type]
    assert 0.8 < guess.total / result.peak_memory_bytes < 1.4


def test_this_machine_has_memory() -> None:
    assert 10 * MB < machine_memory("cpu") <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("alone", [True, False])
def test_a_part_that_breaks_takes_nothing_with_it(alone: bool) -> None:
    assert each(breaking, range(1), str) == [0]  # what such processes are forked from has loaded torch
    found = each(breaking, range(7), str, seconds=10.0, alone=alone)
    assert (found[0], *found[5:]) == (0, 50, 60)
    assert "(exit code 3)" in found[1]
    assert found[2:5] == ["ArithmeticError: ", "no answer within 10 s", "SystemExit: "]


# --- time


@given(st.lists(st.tuples(st.floats(0.1, 1e4), st.integers(1, 4)), min_size=1, max_size=20), st.integers(1, 6))
def test_total_lies_between_what_must_be_and_one_after_the_other(runs: list[tuple[float, int]], jobs: int) -> None:
    whole = time_estimate.total(runs, jobs)
    at_least = max(max(s for s, _ in runs), sum(s * min(n, jobs) for s, n in runs) / jobs)
    assert at_least * 0.999 <= whole <= sum(s for s, _ in runs) * 1.001
    if jobs == 1:
        assert whole == pytest.approx(sum(s for s, _ in runs))


@given(st.floats(1, 1e7))
def test_clock_says_what_it_was_given(seconds: float) -> None:
    number, unit = preview.clock(seconds).split()
    size = {"s": 1, "min": 60, "h": 3600, "days": 86400}[unit]
    assert abs(float(number) * size - seconds) <= max(0.06 * seconds, 0.5)


@given(st.integers(10**7, 10**13))
def test_bytes_are_said_with_two_digits(size: int) -> None:
    number, unit = memory_fit.human(size).split()
    assert abs(float(number) * {"MB": 10**6, "GB": 10**9}[unit] - size) <= 0.06 * size


TINY = (
    "device=cpu", "precision=fp32", "model.n_layer=1", "model.d_model=32", "model.context=32", "trainer.max_steps=10",
    "trainer.batch_size=8", "trainer.eval_every=5", "trainer.val_tokens=300", "runtime.threads=1",
)  # fmt: skip
HERE = {"device": "cpu", "name": "a CPU", "cpu": "a CPU", "cores": 2, "memory_bytes": 8 * 10**9}


def cell(tmp_path: Path, *words: str, seed: int = 0, refusal: str = "") -> Cell:
    cfg = gptx.compose([*TINY, *words, f"seed={seed}", f"paths.outputs={tmp_path}"])
    facts = {
        "hardware": HERE, "dtype": "float32", "processes": 1, "flops_per_token": 1000, "n_params": 2000,
        "data": {"val_tokens": 150},
    }  # fmt: skip
    title = " ".join(words)
    folder = RunFolder(tmp_path / "s" / f"{title}{seed}".replace(" ", "·"))
    return Cell([*words], f"{title} seed={seed}", title, cfg, folder, refusal, {} if refusal else facts)


def result(one: Cell, **others: Any) -> None:
    """As if the cell had been run, somewhere."""
    assert one.folder is not None
    one.folder.path.mkdir(parents=True)
    (one.folder.path / "journal.jsonl").touch()
    plain = OmegaConf.to_container(one.cfg, resolve=True)
    assert isinstance(plain, dict)
    facts = {**one.facts, "status": "finished", "config": plain, "variant": plain["variant"], "tokens_per_s": 256.0}
    write_json(one.folder.path / "result.json", {**facts, "peak_memory_bytes": 400 * MB, **others})


def test_time_is_that_of_finished_runs_of_the_kind(tmp_path: Path) -> None:
    for seed, speed in enumerate((128.0, 256.0, 512.0)):
        result(cell(tmp_path, "pos=alibi", seed=seed), tokens_per_s=speed)
    result(cell(tmp_path, "pos=t5"), dtype="bfloat16", tokens_per_s=1e9)  # does not compare
    seconds, source = time_estimate.Pace(tmp_path, 2, here=False).seconds(cell(tmp_path, "pos=rope"))
    tokens = 10 * 8 * 32 + 2 * 150 / 3  # steps, and validations: 150 tokens are all there are
    assert seconds == pytest.approx(time_estimate.STARTUP + tokens / 256)
    assert source == "3 finished runs"


def test_time_counts_what_is_left(tmp_path: Path) -> None:
    begun = cell(tmp_path, "pos=rope")
    assert begun.folder is not None
    whole = time_estimate.work(begun)
    (begun.folder.checkpoints / "step-00000005").mkdir(parents=True)
    assert time_estimate.work(begun) == whole / 2


def test_time_is_timed_where_nothing_is_known(tmp_path: Path, corpus: Path) -> None:
    one = cell(tmp_path, "data=text", f"data.path={corpus}", f"paths.data={tmp_path}")
    assert time_estimate.Pace(tmp_path, 1, here=False).seconds(one) == (None, "")
    seconds, source = time_estimate.Pace(tmp_path, 1).seconds(one)
    assert seconds is not None and seconds > time_estimate.STARTUP
    assert source == "a timed step"


@given(st.integers(1, 500), st.floats(1, 1e5))
def test_what_is_timed_is_worth_it(runs: int, seconds: float) -> None:
    """Where the runs follow, timing takes a small part of them, but for the first; where to know is all, its bound."""
    first, before = time_estimate.Pace(Path("nowhere"), 2, runs=runs), time_estimate.Pace(Path("nowhere"), 2)
    assert first._may_time() and before._may_time()
    for one in (first, before):
        one.spent = min(time_estimate.TIMING, time_estimate.WORTH * seconds * runs / 2)
        one.told.append(seconds)
    assert not first._may_time()
    assert before._may_time() == (before.spent < time_estimate.TIMING)
    first.spent *= 0.99
    assert first._may_time()


def test_what_cannot_be_timed_is_tried_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    never = cell(tmp_path, "data=text", "data.path=nowhere.txt", f"paths.data={tmp_path}")
    one = time_estimate.Pace(tmp_path, 1)
    assert one.seconds(never) == one.seconds(never) == (None, "")
    assert capfd.readouterr().err.count(f"no estimate of {never.title}: ") == 1


# --- memory of a sweep


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1 GB, on which a run holds 50 MB a row, and nothing with activation checkpointing."""

    def size(cfg: Any, facts: Any) -> int:
        return 50 * MB * (0 if cfg.activation_checkpointing else cfg.trainer.micro_batch or cfg.trainer.batch_size)

    monkeypatch.setattr(memory_fit, "machine_memory", lambda kind: 1000 * MB)
    monkeypatch.setattr(memory_fit, "_size", size)
    monkeypatch.setattr(memory_fit, "each", lambda work, items, lost: list(map(work, items)))


def test_what_is_not_known_is_told_of_its_combination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_fit, "each", lambda work, items, lost: [100, lost("no answer within 120 s")])
    good, hangs = cell(tmp_path, "attention=mha"), cell(tmp_path, "attention=mqa")
    memory_fit.check_memory([good, hangs], 2)
    assert good.facts["memory_bytes"] == 100 and "memory_bytes" not in hangs.facts
    said = "gptx: no estimate of what attention=mqa seed=0 holds: no answer within 120 s\n"
    assert capsys.readouterr().err == said


@pytest.mark.usefixtures("small")
def test_what_is_too_large_is_refused_with_what_would_do(tmp_path: Path) -> None:
    good, large = cell(tmp_path, "trainer.batch_size=8"), cell(tmp_path, "trainer.batch_size=64")
    assert memory_fit.check_memory([good, large], 2) == (2, "")
    assert good.facts["memory_bytes"] == 400 * MB
    assert not good.refusal
    assert large.refusal == (
        "it would hold about 3.2 GB, more than the 1.0 GB that are free here: trainer.micro_batch=16 (about 800 MB) or "
        "activation_checkpointing=true (about 0 MB) would do"
    )


def test_a_silent_end_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["false"], start_new_session=True)
    options = OmegaConf.create({"timeout": 0, "memory": 0, "grace": 0})
    ended = Watched(Task("it", tmp_path, (), 1, "cpu"), child, options, "")
    assert child.wait() == 1
    assert ended.end(1).reason == "its process ended without a word (exit code 1)"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=4096))
    assert ended.end(1).reason == (
        f"its process ended without a word (exit code 1): No space left on device in {tmp_path}: free some, and the "
        "same command goes on"
    )


@pytest.mark.usefixtures("small")
def test_elsewhere_nothing_is_refused(tmp_path: Path) -> None:
    large = cell(tmp_path, "trainer.batch_size=64")
    assert memory_fit.check_memory([large], 16, here=False) == (16, "")
    assert large.facts["memory_bytes"] == 3200 * MB
    assert not large.refusal


@pytest.mark.usefixtures("small")
def test_fewer_run_side_by_side_where_memory_is_short(tmp_path: Path) -> None:
    cells = [cell(tmp_path, f"trainer.batch_size={n}") for n in (4, 8, 8, 8)]
    assert memory_fit.check_memory(cells, 4) == (
        2,
        "2 at once instead of 4: the largest would hold about 400 MB of 1.0 GB free",
    )
    assert memory_fit.check_memory(cells[:2], 4) == (4, "")  # there are no more


# --- what is shown


def shown(cells: list[Cell], tmp_path: Path, width: int = 100, **given: Any) -> str:
    out = io.StringIO()
    preview.show(cells, 2, time_estimate.Pace(tmp_path, 2, here=False), console=Console(file=out, width=width), **given)
    return out.getvalue()


def test_survey_says_all_before_anything_starts(tmp_path: Path) -> None:
    cells = [
        cell(tmp_path, f"attention={a}", f"pos={p}", seed=s)
        for a in ("mha", "mqa")
        for p in ("rope", "t5")
        for s in (0, 1)
    ]
    result(cells[0])
    for one in cells[4:6]:
        one.refusal = "it cannot be"
    text = shown(cells, tmp_path, about={"question": "which?", "expected": "", "paper": "A 2020"}, notes=["a note"])
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[:2] == ["question: which?", "paper: A 2020"]
    assert "attention" in text and "1 run, 1 done" in text
    assert (
        "refused: 2 combinations: it cannot be (attention=mqa pos=rope seed=0, attention=mqa pos=rope seed=1)" in text
    )
    assert "a note" in lines
    assert lines[-1] == "8 combinations: 5 will run, 2 at once, about 36 s (by 1 finished run); 1 is done; 2 refused"


def test_survey_without_anything_known(tmp_path: Path) -> None:
    assert shown([cell(tmp_path)], tmp_path).endswith("1 combination: 1 will run, 1 at once, nobody knows how long\n")


def test_equal_reasons_stand_together(tmp_path: Path) -> None:
    many = [cell(tmp_path, f"attention={a}", seed=s, refusal="no") for a in ("mha", "mqa") for s in range(4)]
    other = cell(tmp_path, "attention=gqa", refusal="otherwise")
    assert preview.refusals([*many, other]) == [
        "refused: 8 combinations: no (attention=mha seed=0, attention=mha seed=1, attention=mha seed=2 and 5 more)",
        "refused: attention=gqa seed=0: otherwise",
    ]


def test_survey_fits_the_terminal(tmp_path: Path) -> None:
    words = [
        ["attention=differential", f"pos={p}", "window=sliding_sink", "ffn=swiglu"] for p in ("rope_partial", "t5")
    ]
    cells = [cell(tmp_path, *one) for one in words]
    for width in (60, 80, 120, 200):
        text = shown(cells, tmp_path, width)
        assert max(map(len, text.splitlines())) <= width
        assert all(word in text for word in ("differential", "rope_partial", "sliding_sink", " state")), width


def test_survey_says_once_what_was_solved_for_all_rates(tmp_path: Path) -> None:
    cells = [cell(tmp_path, *words, f"optim.lr={n}") for words in ([], ["ffn=moe"]) for n in (1, 2)]
    for one in cells:
        one.note = f"solved for {one.cfg.variant.ffn}"
    lines = [line.strip() for line in shown(cells, tmp_path).splitlines() if "solved for" in line]
    assert lines == ["the only one  solved for gelu", "ffn=moe       solved for moe"]


def test_survey_of_many_arms_is_cut(tmp_path: Path) -> None:
    one = cell(tmp_path)
    cells = [Cell([], f"optim.lr={n}", f"optim.lr={n}", one.cfg, None, "no") for n in range(50)]
    text = shown(cells, tmp_path)
    assert "and 10 more\n" in text
    assert text.count(" refused\n") == preview.MOST_ARMS + 1  # and the last line
