"""What a comparison shows beyond the differences from the baseline: factors, pairs, text, reach, strategies, costs."""

import json
import math
import random
from io import StringIO
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_compare import cli, put, result, started

from gptx.compare.comparison import Comparison, compare
from gptx.compare.effect_texts import as_latex, as_markdown
from gptx.compare.findings import CostUnit, FrontPlace
from gptx.compare.grid import crosses
from gptx.compare.sections import SectionName
from gptx.compare.selection import find_runs
from gptx.runs.unit_losses import UnitLosses, write_unit_losses
from gptx.statistics.bootstrap import bca_ratios

POS, WINDOW = {"rope": 0.0, "learned": 0.5}, {"full": 0.0, "sliding": 0.05}


def grid(root: Path, left_out: tuple[str, str] | None = None, interaction: float = 0.0) -> Path:
    rng = random.Random(3)
    for seed, pos, window in product(range(3), POS, WINDOW):
        if (pos, window) != left_out:
            loss = 1.5 + seed / 50 + POS[pos] + WINDOW[window] + rng.gauss(0, 1e-3)
            loss += interaction * (pos == "learned") * (window == "sliding")
            put(root, result(seed, pos=pos, window=window, val_loss=loss))
    return root


def compared(root: Path, **given: Any) -> Comparison:
    return compare(find_runs(root), **given)


def test_a_grid_has_main_effects_and_interactions(tmp_path: Path) -> None:
    comparison = compared(grid(tmp_path, interaction=0.03))
    means = comparison.runs.groupby(["pos", "window"])["val_loss"].mean()
    rope, learned = means["rope"], means["learned"]
    assert comparison.grid is not None and comparison.grid.factors == ("pos", "window")
    by_factor = {one.changes[0].factor: one.estimate for one in comparison.grid.effects.main}
    assert by_factor["pos"] == pytest.approx((learned - rope).mean())
    [both] = comparison.grid.effects.interactions
    change = learned["sliding"] - learned["full"] - rope["sliding"] + rope["full"]
    assert both.estimate == pytest.approx(change) and both.interval and both.interval.excludes_zero
    [panel] = comparison.grid.effects.panels
    points = {point.levels: point.estimate for point in panel.points}
    expected = {(pos, window): means[pos, window] - means["rope", "full"] for pos, window in points}
    assert points == pytest.approx(expected)


def test_a_grid_is_shown_in_sentences_and_in_all_formats(tmp_path: Path) -> None:
    file, picture = tmp_path / "factors.csv", tmp_path / "interactions.png"
    root = grid(tmp_path / "runs")
    done = cli(root, "--factors", "--factors-csv", file, "--interactions", picture, width=300)
    sentence = "learned (instead of rope) raises the val loss by 0.50"
    assert done.returncode == 0 and "Effects of pos and window on val loss in nats/token" in done.stdout
    assert sentence in done.stdout and "; the interaction is within ± 0.01" in done.stdout
    assert list(pd.read_csv(file)["kind"]) == ["main"] * 2 + ["simple"] * 4 + ["interaction"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    comparison = compared(root)
    assert sentence in as_markdown(comparison) and "raises the val loss by" in as_latex(comparison)
    content = json.loads(cli(root, "--json", "-").stdout)
    assert [one["kind"] for one in content["factors"]].count("interaction") == 1


def test_missing_cells_are_named_and_other_designs_are_no_grid(tmp_path: Path) -> None:
    for attention in ("mha", "gqa"):
        for pos, window, seed in product(POS, WINDOW, (0, 1)):
            if (attention, pos, window) != ("gqa", "learned", "sliding"):
                axes = {"attention": attention, "pos": pos, "window": window}
                put(
                    tmp_path / "a",
                    result(seed, **axes, val_loss=1.5 + POS[pos] + seed / 100 + len(attention) * seed / 999),
                )
    comparison = compared(tmp_path / "a")
    assert comparison.grid is not None and comparison.grid.missing == (("gqa", "learned", "sliding"),)
    assert {one.averaged for one in comparison.grid.effects.main} == {(3, 4)}
    assert "1 combination of levels have no finished run" in cli(tmp_path / "a", width=200).stdout
    one_at_a_time = compared(grid(tmp_path / "b", left_out=("learned", "sliding")))
    assert len(one_at_a_time.arms) == 2 and one_at_a_time.grid is None
    done = cli(tmp_path / "b", "--interactions", tmp_path / "x.png")
    assert done.returncode == 2 and "the arms form no grid" in done.stderr


def test_a_learning_rate_tuned_for_each_arm_is_no_factor(tmp_path: Path) -> None:
    rates = iter((1e-3, 2e-3, 3e-3, 4e-3))
    for pos, window in product(POS, WINDOW):
        keys = {"optim": {"lr": next(rates)}}
        for seed in (0, 1):
            put(tmp_path, result(seed, pos=pos, window=window, keys=keys, val_loss=1.5 + POS[pos] + seed / 100))
    comparison = compared(tmp_path)
    assert comparison.grid is not None and comparison.grid.factors == ("pos", "window")


def test_intervals_of_all_pairs_are_those_of_tukey(tmp_path: Path) -> None:
    comparison = compared(grid(tmp_path))
    assert comparison.pairs is not None and len(comparison.pairs.effects) == 6
    assert comparison.pairs.critical_value == pytest.approx(stats.studentized_range.isf(0.05, 4, 6) / 2**0.5, rel=2e-3)
    narrow = {one.arm.name: one.effect.interval for one in comparison.arms}
    for one in comparison.pairs.effects[:3]:
        assert one.interval and (own := narrow[one.arm]) and one.interval.low < own.low < own.high < one.interval.high
    out = cli(tmp_path, "--pairs", width=200).stdout
    names = [arm.name for arm in comparison.compared]
    assert all(f"{a} minus {b}" in out or f"{b} minus {a}" in out for a, b in combinations(names, 2))


def test_bca_intervals_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(20, 200, 60).astype(float)
    sums = counts * rng.exponential(1, 60)
    [(low, high, error)] = bca_ratios(sums[None], counts, 9999, 0.95)
    known = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(2),
    )
    limits = known.confidence_interval
    assert [low, high] == pytest.approx([limits.low, limits.high], abs=0.05 * (high - low))
    assert error == pytest.approx(known.standard_error, rel=0.05)


def with_text(root: Path, noise: float) -> Path:
    """Two arms that differ by -0.03 in all seeds, over documents in which the difference varies by ``noise``."""
    rng = np.random.default_rng(5)
    document, tokens = np.arange(64), np.full(64, 100)
    hard = rng.normal(0, 0.3, 64)
    own = rng.normal(0, noise, 64)
    own -= own[32:].mean()
    for seed, attention in product(range(4), ("mha", "gqa")):
        loss = 1.5 + seed / 50 - 0.03 * (attention == "gqa") + 1e-3 * (seed % 2) * (attention == "gqa")
        nats = tokens * (loss + hard - hard[32:].mean() + own * (attention == "gqa"))
        run = put(root, result(seed, attention=attention, val_loss=loss))
        halves = {"select": document < 32, "report": document >= 32}
        zero = np.zeros(64, int)
        write_unit_losses(
            run, UnitLosses(step=1, document=document, offset=zero, nats=nats, tokens=tokens, size=tokens, **halves)
        )
    return root


def test_a_difference_that_another_text_could_reverse_holds_on_this_text(tmp_path: Path) -> None:
    sure, doubtful = compared(with_text(tmp_path / "a", 0.01)), compared(with_text(tmp_path / "b", 1.0))
    for comparison in (sure, doubtful):
        [one] = comparison.text_doubts
        assert one.difference and one.difference.estimate == pytest.approx(comparison.arms[0].effect.estimate)
    assert "on this text" not in sure.sentence
    assert "better: attention=gqa (on this text) by 0.0295" in doubtful.sentence
    row = doubtful.table.iloc[0]
    assert row["on_this_text"] and row["would_help"] == "more text" and row["text_low"] < 0 < row["text_high"]
    out = cli(tmp_path / "b", width=200).stdout
    assert "better on this text" in out and "more text" in out and "on this text: another validation text" in out


def test_runs_without_losses_of_the_text_have_no_doubt_and_other_units_are_named(tmp_path: Path) -> None:
    assert compared(grid(tmp_path / "a")).text_doubts == ()
    with_text(tmp_path / "b", 0.01)
    for path in (tmp_path / "b").rglob("gqa*/validation.safetensors"):
        path.write_bytes(b"damaged")
    [one] = compared(tmp_path / "b").text_doubts
    assert one.difference is None and "validation.safetensors" in one.problem


def journal(given: dict[str, Any], scale: float, train: float = 2.0) -> list[dict[str, Any]]:
    """A journal whose validation loss falls with the logarithm of the step, from one that a larger scale delays."""
    start = started(given)[0]
    start["config"] |= {"trainer": {"batch_size": 8}, "model": {"context": 64}}
    lines = [start]
    for step in (10, 20, 40, 80, 160):
        values = {"val/loss": 9 - math.log(step / scale), "train/loss": train + step}
        lines.append({"t": 1 + 1000 * step, "kind": "metrics", "step": step, "values": values})
    return lines


def test_reach_is_the_ratio_of_costs_and_counts_runs_that_never_do(tmp_path: Path) -> None:
    scales = {"mha": (1, 1, 1), "gqa": (0.5, 0.5, 0.5), "mqa": (0.5, 2, 2)}
    for attention, of_seeds in scales.items():
        for seed, scale in enumerate(of_seeds):
            given = result(
                seed, attention=attention, val_loss=9 - math.log(160 / scale), flops_per_token=100 * len(attention)
            )
            put(tmp_path, given, journal(given, scale))
    comparison = compared(tmp_path)
    found = {(one.arm, one.unit): one.reach for one in comparison.reaches}
    assert len(found) == 8
    for unit in CostUnit:
        half, never = found["attention=gqa", unit], found["attention=mqa", unit]
        assert half and half.ratio == pytest.approx(0.5, abs=0.01) and never and never.never == 2
    assert [curve.tokens[0] for curve in comparison.curves] == [10 * 8 * 64] * 3
    out = cli(tmp_path, "--reach", "--curves", tmp_path / "c.svg", "--against", "tokens", width=200).stdout
    assert "2 of 3 never" in out and "0.50\n" in out.replace(" ", "") and "(0.50 to 0.50)" in out
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")


def test_times_of_runs_that_shared_the_machine_do_not_compare(tmp_path: Path) -> None:
    for seed, attention in product((0, 1), ("mha", "gqa")):
        given = result(seed, attention=attention, val_loss=9 - math.log(160), other_runs=1)
        put(tmp_path, given, journal(given, 1))
    comparison = compared(tmp_path)
    problems = {one.unit: one.problem for one in comparison.reaches if one.problem}
    assert list(problems) == [CostUnit.SECONDS] and "shared the machine" in problems[CostUnit.SECONDS]
    assert comparison.curves[0].seconds == ()
    assert {one.key: one.place for one in comparison.costs}["tokens_per_s"] is FrontPlace.UNKNOWN


@pytest.mark.parametrize(("off", "precision", "suspected"), [(1e-6, "fp32", 0), (1e-3, "fp32", 1), (1e-3, "bf16", 0)])
def test_a_strategy_that_changes_the_first_steps_is_a_suspected_bug(
    tmp_path: Path, off: float, precision: str, suspected: int
) -> None:
    for seed, strategy in product((0, 1), ("single", "ddp")):
        given = result(seed, strategy=strategy, precision=precision, val_loss=1.5 + seed / 10)
        put(tmp_path, given, journal(given, 1, train=2 + off * (strategy == "ddp")))
    check = compared(tmp_path).strategies
    assert len(check.suspected) == suspected and len(check.differences) == 2
    assert [(one.steps, one.at, one.first) for one in check.differences] == [
        (2, 10, pytest.approx(off / 12, rel=1e-3))
    ] * 2
    assert ("! suspected bug: the strategy must not change the training" in cli(tmp_path, width=300).stdout) == bool(
        suspected
    )


def test_a_strategy_with_another_final_loss_is_a_suspected_bug(tmp_path: Path) -> None:
    for seed, (strategy, loss) in product((0, 1, 2), (("single", 1.5), ("ddp", 1.6))):
        put(tmp_path / "a", result(seed, strategy=strategy, val_loss=loss + seed / 10 + seed * loss / 1e4))
    [line] = compared(tmp_path / "a").strategies.suspected
    assert (
        line == "suspected bug: the strategy must not change the loss, but strategy=ddp ends worse than strategy=single"
    )
    assert compared(grid(tmp_path / "grid")).strategies.differences == ()


def test_the_pareto_front_is_that_of_the_means_and_says_what_is_within_the_noise(tmp_path: Path) -> None:
    arms = {"mha": (1.50, 4000), "gqa": (1.502, 4000), "mqa": (1.60, 1000), "mla": (1.7, 2000)}
    rng = random.Random(1)
    for seed, (attention, (loss, kv)) in product(range(4), arms.items()):
        given = result(seed, attention=attention, val_loss=loss + seed / 50 + rng.gauss(0, 4e-3), kv_bytes_per_token=kv)
        put(tmp_path, given)
    places = {one.arm: one.place for one in compared(tmp_path).costs if one.key == "kv_bytes_per_token"}
    assert places.pop("attention=mqa") is FrontPlace.ON and places.pop("attention=mla") is FrontPlace.OFF
    assert set(places.values()) == {FrontPlace.ON, FrontPlace.NEAR}
    out = cli(tmp_path, "--costs", "--pareto", tmp_path / "p.pdf", width=200).stdout
    assert "Pareto front of val loss and this cost" in out and "1.00 kB *" in out
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")


def test_tables_on_request_are_named_and_written(tmp_path: Path) -> None:
    comparison = compared(grid(tmp_path))
    out = cli(tmp_path, width=300).stdout
    for name in SectionName:
        assert f"(--{name})" in out
    names = list(SectionName)
    assert as_latex(comparison, names).count(r"\begin{table}") == 6 and "**All pairs of arms**" in as_markdown(
        comparison, names
    )
    effects = pd.read_csv(StringIO(cli(tmp_path, "--factors-csv", "-").stdout))
    assert set(effects["factor"]) == {"pos", "window"}


@pytest.mark.parametrize("option", ["--interactions", "--pareto", "--curves"])
def test_pictures_need_a_known_ending(tmp_path: Path, option: str) -> None:
    done = cli(grid(tmp_path), option, "x.jpg")
    assert done.returncode == 2 and f"{option} x.jpg: expected a name that ends in .png, .svg, .pdf" in done.stderr


def test_only_crossed_factors_of_a_grid_of_limited_size_are_estimated() -> None:
    """Changes of one factor at a time cross nothing, however many factors there are."""
    one_at_a_time = [tuple("b" if i == j else "a" for i in range(8)) for j in range(9)]
    assert not crosses(one_at_a_time) and not crosses([])
    assert crosses([*one_at_a_time, ("b", "b", *"aaaaaa")])
    assert not crosses([("a", "a", "a"), ("a", "b", "a"), ("b", "a", "b"), ("b", "b", "b")]), "the third differs, too"


def test_grid_with_too_many_possible_cells_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptx.compare.grid.MOST_CELLS", 3)
    assert compared(grid(tmp_path)).grid is None
