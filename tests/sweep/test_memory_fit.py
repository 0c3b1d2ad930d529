"""Whether a sweep's runs fit into memory: estimates of memory, rejected cells with advice, and runs at once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Gptx
from fake_cells import MB, fake_cell
from helpers_model import GROUPS, VOCAB, arm, kernels, options, tiny, yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gptx.cli import configure_logging
from gptx.memory.estimate import RamEstimate, estimate
from gptx.memory.machine_memory import machine_memory
from gptx.runs.folder import RunFolder
from gptx.runs.units import memory_text
from gptx.sweep.plan import memory_fit
from gptx.sweep.plan.memory_fit import JobLimit, check_memory

WINDOW_OF = {"banded": "sliding"}  # kernels that cannot compute every window
DEVICES = {"cpu": {*kernels("full"), *kernels("sliding")}, "cuda": set(options("kernel")) - {"flash"}}


def estimated(group: str, option: str, batch: int, context: int, device: str, dtype: torch.dtype) -> RamEstimate:
    window = WINDOW_OF.get(option, "full")
    variant = {"kernel": option, "window": window} if group == "kernel" else {group: option}
    cfg = tiny(arm(**variant), context=context, d_model=32)
    cfg.trainer.batch_size, cfg.runtime.val_batch, cfg.trainer.micro_batch = batch, batch, 0
    return estimate(cfg, VOCAB, device, dtype, 1)


FIRST_TIER = ("attention", "kernel")


@pytest.mark.parametrize(
    "group", [pytest.param(group, marks=[] if group in FIRST_TIER else [pytest.mark.full]) for group in GROUPS]
)
def test_memory_of_every_variant_grows_with_batch_and_context(group: str) -> None:
    for number, option in enumerate(options(group)):
        dtype = (torch.float32, torch.bfloat16)[number % 2]
        for device in ("cpu", "cuda") if group == "kernel" else ("cpu",):
            if group == "kernel" and option not in DEVICES[device]:
                continue
            one, more, longer = (estimated(group, option, *size, device, dtype) for size in ((4, 16), (8, 16), (4, 64)))
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


def test_sharding_strategies_hold_fewer_weights() -> None:
    of = {
        c.variant.strategy: estimate(c, VOCAB, "cpu", torch.float32, 1 + (c.strategy.nproc != 1)) for c in strategies()
    }
    assert of["single"].held == of["ddp"].held
    assert of["ddp"].step < of["single"].step  # half of the rows
    for name in ("fsdp", "hsdp", "fsdp_tp", "cp", "pp", "tp"):
        assert of[name].held < 0.6 * of["ddp"].held, name


def test_checkpointing_and_micro_batches_lower_the_estimate() -> None:
    cfg = tiny(context=64, n_layer=4, d_model=64)
    cfg.trainer.batch_size, cfg.trainer.micro_batch = 16, 0
    plain = estimate(cfg, VOCAB, "cpu", torch.float32, 1)
    cfg.activation_checkpointing = True
    assert estimate(cfg, VOCAB, "cpu", torch.float32, 1).step < 0.8 * plain.step
    cfg.activation_checkpointing, cfg.trainer.micro_batch = False, 4
    assert estimate(cfg, VOCAB, "cpu", torch.float32, 1).step < 0.6 * plain.step


MEASURED = {
    "a window in bf16": ["model.context=512", "window=sliding", "trainer.batch_size=16", "precision=bf16"],
    "a large vocabulary": ["model.vocab_size=16000", "model.context=64", "trainer.batch_size=32", "ffn=moe"],
}
SIZE = (
    "model.n_layer=3", "model.d_model=128", "trainer.max_steps=6", "trainer.eval_every=2", "trainer.val_tokens=4096",
    "runtime.sample_tokens=0",
)  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("case", MEASURED)
def test_memory_estimate_is_close_to_the_measurement(gptx: Gptx, case: str) -> None:
    done = gptx(*SIZE, *MEASURED[case])
    assert done.code == 0, done.err
    result = RunFolder(gptx.folder).result()
    assert result is not None
    cfg = OmegaConf.load(gptx.folder / "config.yaml")
    guess = estimate(cfg, cfg.model.vocab_size or 257, "cpu", getattr(torch, result.dtype), 1)  # type: ignore[arg-type]
    assert 0.8 < guess.total / result.peak_memory_bytes < 1.4


def test_machine_memory_is_plausible() -> None:
    assert 10 * MB < machine_memory("cpu") <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@given(st.integers(10**7, 10**13))
def test_bytes_are_shown_with_two_digits(size: int) -> None:
    number, unit = memory_text(size).split()
    assert abs(float(number) * {"MB": 10**6, "GB": 10**9, "TB": 10**12}[unit] - size) <= 0.06 * size


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1 GB, on which a run needs 50 MB per row, and nothing with activation checkpointing."""

    def size(cfg: Any, facts: Any) -> int:
        return 50 * MB * (0 if cfg.activation_checkpointing else cfg.trainer.micro_batch or cfg.trainer.batch_size)

    monkeypatch.setattr(memory_fit, "machine_memory", lambda device: 1000 * MB)
    monkeypatch.setattr(memory_fit, "_estimate_bytes", size)
    monkeypatch.setattr(memory_fit, "map_isolated", lambda function, items, on_failure: list(map(function, items)))


def test_unknown_memory_is_reported_with_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_hangs(function: Any, items: Any, on_failure: Callable[[str], Any]) -> list[Any]:
        return [100, on_failure("no answer within 120 s")]

    monkeypatch.setattr(memory_fit, "map_isolated", one_hangs)
    good, hangs = fake_cell(tmp_path, "attention=mha"), fake_cell(tmp_path, "attention=mqa")
    configure_logging()
    check_memory([good, hangs], 2)
    assert good.memory_bytes == 100 and hangs.memory_bytes is None
    message = "gptx: no estimate of the memory of attention=mqa seed=0: no answer within 120 s\n"
    assert capsys.readouterr().err == message


@pytest.mark.usefixtures("small_machine")
def test_too_large_run_is_rejected_with_settings_that_fit(tmp_path: Path) -> None:
    good, large = fake_cell(tmp_path, "trainer.batch_size=8"), fake_cell(tmp_path, "trainer.batch_size=64")
    assert check_memory([good, large], 2) == JobLimit(2)
    assert good.memory_bytes == 400 * MB
    assert not good.rejection
    assert large.rejection == (
        "the run needs about 3.2 GB, more than the 1.0 GB that this machine has free; use trainer.micro_batch=16 "
        "(about 800 MB) or activation_checkpointing=true (about 0 B)"
    )


@pytest.mark.usefixtures("small_machine")
def test_memory_is_not_checked_for_another_machine(tmp_path: Path) -> None:
    large = fake_cell(tmp_path, "trainer.batch_size=64")
    assert check_memory([large], 16, here=False) == JobLimit(16)
    assert large.memory_bytes == 3200 * MB
    assert not large.rejection


@pytest.mark.usefixtures("small_machine")
def test_fewer_runs_at_once_if_memory_is_short(tmp_path: Path) -> None:
    cells = [fake_cell(tmp_path, f"trainer.batch_size={n}") for n in (4, 8, 8, 8)]
    assert check_memory(cells, 4) == JobLimit(
        2, "only 2 of 4 runs at once: the largest needs about 400 MB of 1.0 GB free memory"
    )
    assert check_memory(cells[:2], 4) == JobLimit(4)  # only two cells
