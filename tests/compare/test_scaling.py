"""``python -m gptx.compare.scaling``: fits recover the laws that made the losses."""

import random
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import fake_runs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptx.compare.powerlaw import Floats, Law, bootstrap, fit
from gptx.compare.scaling import main
from gptx.runs.journal import Journal

SIZES = [200_000.0, 470_000.0, 820_000.0, 1_800_000.0, 3_200_000.0, 7_200_000.0]
TOKENS = [1.0e6, 2.0e6, 4.0e6, 8.2e6]
EXPONENT = st.floats(0.15, 0.9)


def law(a: float, b: float) -> Law:
    """Half a nat for the size and as much for the text, in the middle of the grid."""
    return Law(1.0, 0.5 * 1e6**a, 0.5 * 3e6**b, a, b)


def grid(true: Law, noise: float = 0.0, seeds: int = 1) -> tuple[Floats, Floats, Floats]:
    sizes, tokens = np.array(list(product(SIZES, TOKENS)) * seeds).T
    spread = np.random.default_rng(0).normal(0, noise, len(sizes))
    return sizes, tokens, true.loss(sizes, tokens) * np.exp(spread)


@given(EXPONENT, EXPONENT)
@settings(max_examples=4)
def test_fit_recovers_the_law_that_made_the_losses(a: float, b: float) -> None:
    fit_recovers(a, b)


@pytest.mark.full
@given(EXPONENT, EXPONENT)
@settings(max_examples=20)
def test_fit_recovers_many_laws(a: float, b: float) -> None:
    fit_recovers(a, b)


def fit_recovers(a: float, b: float) -> None:
    true = law(a, b)
    found = fit(*grid(true))
    assert [found.a, found.b, found.E] == pytest.approx([a, b, 1.0], rel=0.02)
    assert found.best(1e14) == pytest.approx(true.best(1e14), rel=0.05)


@pytest.mark.parametrize(("a", "b"), [(0.34, 0.28), (0.5, 0.5), (0.2, 0.6)])
def test_intervals_contain_the_truth_with_noise(a: float, b: float) -> None:
    runs = grid(law(a, b), noise=0.003, seeds=3)
    found = fit(*runs)
    drawn = bootstrap(*runs, found, 60)
    assert len(drawn) == 60
    for name, true in (("a", a), ("b", b), ("E", 1.0)):
        low, high = np.percentile([getattr(one, name) for one in drawn], [1, 99])
        assert low < true < high and high - low < 0.25


def test_an_outlier_has_little_influence() -> None:
    sizes, tokens, losses = grid(law(0.34, 0.28))
    losses[7] *= 1.5
    found = fit(sizes, tokens, losses)
    assert [found.a, found.b] == pytest.approx([0.34, 0.28], abs=0.02)


def test_best_split_of_a_budget_has_the_lowest_loss() -> None:
    true = law(0.34, 0.28)
    size, tokens = true.best(1e15)
    assert 6 * size * tokens == pytest.approx(1e15)
    for other in (0.9, 0.99, 1.01, 1.1):
        assert true.loss(size * other, tokens / other) > true.loss(size, tokens)
    larger, _ = true.best(1e17)
    assert larger / size == pytest.approx(100**true.growth)


def make(root: Path, size: float, tokens: float, loss: float, **more: Any) -> None:
    """A finished run of that size and length."""
    uid, seed, rate = uuid.uuid4().hex, more.pop("seed", 0), more.pop("lr", 1e-3)
    first = fake_runs.start(uid, seed=seed, **more)
    width, steps = round(size**0.5), round(tokens / 8192)
    config = {"model": {"d_model": width}, "trainer": {"max_steps": steps}, "optim": {"lr": rate}, "seed": seed}
    figures: dict[str, Any] = {"val_loss": loss, "n_params": round(size), "tokens": round(tokens), "steps": steps}
    figures |= {"config": config, "variant": first.variant, "seed": seed, "corpus_hash": first.data.corpus_hash}
    with Journal(fake_runs.folder(root, uid)) as book:
        book.write(replace(first, config=config))
        book.write(fake_runs.end_record("finished", steps, fake_runs.result(2.0, **figures)))


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[Path]:
    true, rng = law(0.34, 0.28), random.Random(0)
    for size, tokens in product(SIZES[:4], TOKENS):
        make(tmp_path, size, tokens, float(true.loss(size, tokens)) * (1 + rng.gauss(0, 0.001)))
    yield tmp_path


def output_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main(["--bootstrap", "20", *map(str, words)]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def row(out: str, name: str) -> list[str]:
    [line] = [line for line in out.splitlines() if line.split("  ")[0] == name]
    return line.removeprefix(name).split()


def test_command_fits_and_draws(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(
        capsys, outputs, "--svg", outputs / "law.svg", "--png", outputs / "law.image", "--flops", "1e13", "1e18"
    )
    assert "16 runs, 4 model sizes x 4 token counts" in out
    for name, true in (("a", 0.34), ("b", 0.28)):
        value, low, _, high = row(out, name)
        assert float(value) == pytest.approx(true, rel=0.15) and float(low) < float(value) < float(high)
    assert "outside" not in " ".join(row(out, "1.00e+13")) and "outside" in " ".join(row(out, "1.00e+18"))
    assert all(abs(float(cell)) < 1 for cell in row(out, "N 820k"))
    assert (outputs / "law.svg").read_text().count("<svg") == 1
    assert (outputs / "law.image").read_bytes().startswith(b"\x89PNG")


def test_best_of_several_learning_rates_counts(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = output_of(capsys, outputs)
    for size, tokens in product(SIZES[:4], TOKENS):
        make(outputs, size, tokens, 5.0, lr=0.1)
    rates = output_of(capsys, outputs)
    assert "16 runs" in rates and "left out: 16 at rates that were not the best" in rates
    assert row(rates, "a") == row(plain, "a")


def test_warns_when_runs_deviate_from_the_law(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = output_of(capsys, outputs)
    assert "deviate from the fitted law" not in plain and "cannot be distinguished" not in plain
    for size, tokens in product(SIZES[:4], TOKENS):
        make(outputs, size, tokens, 1.0 if tokens > 3e6 and size < 5e5 else 3.0, seed=1)
    assert "deviate from the fitted law" in output_of(capsys, outputs)


def test_warns_when_the_final_loss_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    true = Law(1e-6, 100.0, 100.0, 0.3, 0.3)
    for size, tokens in product(SIZES[:4], TOKENS):
        make(tmp_path, size, tokens, float(true.loss(size, tokens)))
    assert "E cannot be distinguished from 0" in output_of(capsys, tmp_path)


def test_rejects_too_few_sizes_or_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in output_of(capsys, tmp_path / "none", code=2)
    assert "no finished run" in output_of(capsys, tmp_path, code=2)
    for size, tokens in product(SIZES[:2], TOKENS):
        make(tmp_path, size, tokens, 2.0)
    err = output_of(capsys, tmp_path, code=2)
    assert "at least 3 sizes" in err and "2 sizes (200,000, 470,000)" in err and err.count("\n") == 1


def test_rejects_sizes_and_lengths_that_grow_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        make(tmp_path, 2e5 * 2**i, 1e6 * 2**i, 2.0 - 0.1 * i)
    assert "grow together" in output_of(capsys, tmp_path, code=2)


def test_six_runs_give_a_law_without_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hardly a draw has all six, which five numbers take."""
    for size, tokens in [*product(SIZES[:2], TOKENS[:2]), (SIZES[2], TOKENS[0]), (SIZES[0], TOKENS[2])]:
        make(tmp_path, size, tokens, float(law(0.34, 0.28).loss(size, tokens)))
    out = output_of(capsys, tmp_path)
    assert row(out, "a")[1:] == ["unknown"]
    assert "! 6 runs are too few for intervals" in out and "wider" not in out


def test_rejects_runs_of_several_variants(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(outputs, SIZES[0], TOKENS[0], 2.0, attention="mqa")
    assert "differ in attention" in output_of(capsys, outputs, code=2)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--flops", "0"], "--flops"),
        (["--flops", "nan"], "--flops"),
        (["--bootstrap", "3"], "20 samples"),
        (["--svg", "nowhere/law.svg"], "the folder nowhere does not exist"),
    ],
)
def test_mistakes_get_one_line(words: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert part in line
