"""The conclusion of a comparison: which arms are better than the baseline, by how much, how surely."""

import json
import math
import random
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_compare import cli, put, result, started

import gptx
from gptx.compare.comparison import Comparison, compare
from gptx.compare.conclusion import noise_floor, notes
from gptx.compare.effect_texts import as_latex, as_markdown
from gptx.compare.selection import find_runs
from gptx.compare.study_answer import answers, lines
from gptx.errors import GptxError
from gptx.runs.metrics import BY_KEY

EFFECTS = {"mha": 0.0, "gated": -0.05, "gqa": 0.0005, "mqa": 0.03}
EXPECTED = ["attention=gqa ~ attention=mha"]
ABOUT = {
    "question": "Which attention is best?",
    "expected": "gated lower, gqa equal, mqa lower, sink equal",
    "expect": ["attention=gated,mqa < attention=mha", "attention=gqa,sink ~ attention=mha"],
    "baseline": "attention=gqa",
    "margin": 0.02,
}


def arms(root: Path, seeds: int = 3, noise: float = 1e-3, effects: dict[str, float] | None = None, **over: Any) -> Path:
    """Runs of four attentions with shared seeds, whose losses have a common part of each seed."""
    rng = random.Random(1)  # with which the spread of all arms is about equal
    for seed in range(seeds):
        shared = rng.gauss(0, 0.03)
        for attention, effect in (effects or EFFECTS).items():
            loss = 1.5 + shared + effect + rng.gauss(0, noise)
            put(root, result(seed, attention=attention, val_loss=loss, val_bpb=loss / math.log(2), **over))
    return root


def compared(root: Path, **given: Any) -> Comparison:
    return compare(find_runs(root), **given)


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {one.arm.values["attention"]: str(one.effect.verdict) for one in comparison.arms}


def test_output_leads_with_the_noise_and_the_conclusion(tmp_path: Path) -> None:
    done = cli(arms(tmp_path), width=200)
    noise, conclusion, *rest = done.stdout.splitlines()
    assert (
        noise.startswith("Noise: two seeds of one arm differ by 0.0")
        and "with 3 seeds per arm, a difference of 0.0" in noise
    )
    assert conclusion.startswith("Compared with attention=mha (val loss in nats/token): better: attention=gated by 0.0")
    assert "; worse: attention=mqa by 0.0" in conclusion and "equivalent (within ±0.0100): attention=gqa." in conclusion
    text = "\n".join(rest)
    order = ["95 % interval", "baseline: attention=mha (the default options;", "margin: ", "4 variants, 12 runs"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


def test_differences_are_those_within_seeds(tmp_path: Path) -> None:
    """The balanced design by hand: differences of means, residual of arm + seed, simultaneous limits beyond t's."""
    comparison = compared(arms(tmp_path))
    wide = comparison.runs.pivot(index="attention", columns="seed", values="val_loss")
    residual = wide.sub(wide.mean(axis=1), axis=0).sub(wide.mean(axis=0) - wide.to_numpy().mean(), axis=1)
    deviation = math.sqrt((residual.to_numpy() ** 2).sum() / (3 * 2))
    for one in comparison.arms:
        arm = one.arm.values["attention"]
        assert one.effect.estimate == pytest.approx(wide.loc[arm].mean() - wide.loc["mha"].mean())
        assert one.effect.interval is not None and one.effect.df == 6
        half = one.effect.interval.high - one.effect.estimate
        assert 2.447 * deviation * math.sqrt(2 / 3) < half < 4 * deviation * math.sqrt(2 / 3)
    assert verdicts(comparison) == {"gated": "better", "gqa": "equivalent", "mqa": "worse"}
    typical = np.mean([abs(a - b) for row in wide.to_numpy() for a, b in combinations(row, 2)])
    assert f"differ by {typical:.4f} nats/token on average" in noise_floor(comparison)


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    comparison = compared(arms(tmp_path, seeds=1))
    assert set(verdicts(comparison).values()) == {"undecided"} and noise_floor(comparison) == ""
    assert comparison.sentence == (
        "Compared with attention=mha (val loss in nats/token), nothing is decided: with one seed per arm, a difference "
        "may be chance; run more seeds, such as seed=0,1,2."
    )
    assert comparison.sentence[:60] in cli(tmp_path).stdout


def test_undecided_arms_show_the_seeds_that_they_need(tmp_path: Path) -> None:
    comparison = compared(arms(tmp_path, noise=0.02))
    assert verdicts(comparison)["gqa"] == "undecided"
    needed = comparison.table.set_index("arm").loc["attention=gqa"]
    assert needed["seeds_needed_if_margin"] > 3 and needed["seeds_needed_if_equal"] > 3
    out = cli(tmp_path, width=200).stdout
    seeds = f"{needed['seeds_needed_if_margin']:.0f} / {needed['seeds_needed_if_equal']:.0f}"
    assert seeds in out and "seeds needed: seeds per arm for a verdict with 80 % power" in out


def test_a_diverged_run_is_no_missing_value(tmp_path: Path) -> None:
    arms(tmp_path)
    put(tmp_path, result(3, attention="gated", val_loss=None))
    put(tmp_path, result(3, attention="mha", val_loss=1.5))
    comparison = compared(tmp_path)
    assert verdicts(comparison)["gated"] == "undecided"
    assert "1 of 4 runs diverged" in comparison.table.set_index("arm")["note"]["attention=gated"]


def test_a_failed_run_that_diverged_counts_as_diverged_and_an_arm_without_another_run_is_named(tmp_path: Path) -> None:
    arms(tmp_path)
    failed(tmp_path, "gqa", 7, "diverged")
    failed(tmp_path, "gqa", 0, "diverged")  # of a seed of which another run finished
    failed(tmp_path, "mla", 0, "diverged")
    failed(tmp_path, "sink", 1, "error")
    comparison = compared(tmp_path)
    assert comparison.table.set_index("arm")["note"]["attention=gqa"].startswith("1 of 4 runs diverged")
    assert comparison.excluded == ("worse than any arm below: attention=mla (all of its runs diverged: 1)",)


def failed(root: Path, attention: str, seed: int, end_reason: str, **over: Any) -> None:
    given = result(seed, attention=attention, **over)
    end = {"t": 9, "kind": "end", "status": "failed", "end_reason": end_reason, "step": 3, "error": "it failed"}
    put(root, given | {"status": "failed", "end_reason": end_reason}, [*started(given), end])


# --- baseline, margin, metric


def test_baseline_is_given_or_of_the_study_or_the_default_or_the_first(tmp_path: Path) -> None:
    arms(tmp_path / "a")
    assert compared(tmp_path / "a", baseline="attention=mqa").baseline.name == "attention=mqa"  # type: ignore[union-attr]
    arms(tmp_path / "b", keys={"about": ABOUT})
    comparison = compared(tmp_path / "b")
    assert comparison.baseline and comparison.baseline.name == "attention=gqa" and comparison.margin == 0.02
    assert "baseline: attention=gqa (the study's baseline; --baseline chooses another)" in notes(comparison)
    arms(tmp_path / "c", effects={"gqa": 0.0, "mqa": 0.1})
    comparison = compared(tmp_path / "c")
    assert comparison.baseline and comparison.chosen_because == "the first arm"
    assert "baseline:" in cli(tmp_path / "a", "--baseline", "attention=mqa").stdout


def test_baseline_may_name_keys_and_numbers(tmp_path: Path) -> None:
    for seed in (0, 1):
        for rate, loss in ((1e-3, 1.5), (3e-3, 1.4)):
            put(tmp_path, result(seed, keys={"optim": {"lr": rate}}, val_loss=loss + seed / 100))
    comparison = compared(tmp_path, baseline="optim.lr=3e-3")
    assert comparison.baseline and comparison.baseline.name == "optim.lr=0.003"
    assert [one.effect.estimate for one in comparison.arms] == [pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--baseline", "attention=sink"], "baseline 'attention=sink': no arm has these values; expected one of"),
        (["--baseline", "pos=rope"], "baseline 'pos=rope': 4 arms have these values"),
        (["--baseline", "mha"], "'mha' names no arm; expected key=value"),
        (["--metric", "val_los"], "no metric 'val_los'; choose from val_loss, val_loss_select"),
        (["--metric", "n_params"], "n_params follows from the config, so it needs no interval"),
        (["--margin", "-1"], "--margin"),
        (["--margin", "nan"], "--margin"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, arguments: list[str], part: str) -> None:
    done = cli(arms(tmp_path), *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and part in done.stderr, done.stderr


def test_margin_decides_what_is_equivalent(tmp_path: Path) -> None:
    arms(tmp_path)
    assert verdicts(compared(tmp_path, margin=0.05))["mqa"] == "equivalent"
    assert verdicts(compared(tmp_path, margin=0.0))["gqa"] == "undecided"
    assert "nothing can be equivalent" in cli(tmp_path, "--margin", "0").stdout
    assert compared(tmp_path, metric="val_bpb").margin == 0 == BY_KEY["val_bpb"].margin


def test_more_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        for attention, speed in (("mha", 100.0), ("gqa", 200.0)):
            put(tmp_path, result(seed, attention=attention, tokens_per_s=speed + seed))
    comparison = compared(tmp_path, metric="tokens_per_s")
    assert verdicts(comparison) == {"gqa": "better"} and "by 100" in comparison.sentence


def two_arms(root: Path, differences: tuple[float, ...], metric: str = "val_loss", **over: Any) -> Path:
    for seed, difference in enumerate(differences):
        put(root, result(seed, **{metric: 2.0}, **over))
        put(root, result(seed, attention="gqa", **{metric: 2.0 + difference}, **over))
    return root


@pytest.mark.parametrize(
    ("margin", "text"),
    [
        (0.0091, "worse: attention=gqa by 0.0110 ±0.0025 (perhaps by less than the margin)."),
        (0.0080, "worse: attention=gqa by 0.0110 ±0.0025."),
        (0.0200, "equivalent (within ±0.0200): attention=gqa (higher by 0.0110 ±0.0025)."),
        (0.0000001, "worse: attention=gqa by 0.0110 ±0.0025."),
    ],
)
def test_the_sentence_says_whether_a_difference_may_not_matter(tmp_path: Path, margin: float, text: str) -> None:
    comparison = compared(two_arms(tmp_path, (0.010, 0.011, 0.012)), margin=margin)
    assert comparison.sentence.endswith(text)


def test_the_margin_has_the_unit_that_is_shown_and_all_its_digits(tmp_path: Path) -> None:
    two_arms(tmp_path, (2e6, 2.1e6, 1.9e6), "peak_memory_bytes")
    comparison = compared(tmp_path, metric="peak_memory_bytes", margin=5.25)
    assert verdicts(comparison) == {"gqa": "equivalent"} and comparison.margin == pytest.approx(5.25e6)
    assert "equivalent (within ±5.25)" in comparison.sentence
    assert "±0.000012 nats/token" in notes(compared(tmp_path, margin=0.000012))[1]
    assert "±0.0100 nats/token" in notes(compared(tmp_path, margin=0.01))[1]


def test_numbers_have_no_negative_zero_and_titles_no_second_unit(tmp_path: Path) -> None:
    two_arms(tmp_path, (-1e-9, -2e-9, 1e-9), val_bpb_whole=2.0)
    assert "-0.0000 " not in cli(tmp_path).stdout and "+0.0000 " in cli(tmp_path).stdout
    assert "(bits/byte)" in compared(tmp_path, metric="val_bpb").sentence
    two_arms(tmp_path / "zero", (1e-9, 1e-9, 1e-9))
    assert compared(tmp_path / "zero").sentence.endswith("equivalent (within ±0.0100): attention=gqa.")


def test_an_arm_without_the_key_is_named_by_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        put(tmp_path, result(seed))
        put(tmp_path, result(seed, keys={"extra": {"y": 7}}, val_loss=1.5))
        put(tmp_path, result(seed, keys={"extra": {"y": 8, "z": 1}}, val_loss=1.6))
    for given, name in (("extra.y=none", "extra.y=none extra.z=none"), ("extra.y=7", "extra.y=7")):
        comparison = compared(tmp_path, baseline=given)
        assert comparison.baseline and comparison.baseline.name == name
    again = compared(tmp_path, baseline="extra.y=none extra.z=none")
    assert {one.arm.name for one in again.arms} == {"extra.y=7", "extra.y=8 extra.z=1"}


def test_an_arm_whose_name_begins_that_of_another_can_be_the_baseline(tmp_path: Path) -> None:
    for seed in (0, 1):
        put(tmp_path, result(seed, keys={"extra": {"y": 7}}))
        put(tmp_path, result(seed, keys={"extra": {"y": 7, "z": 1}}))
        put(tmp_path, result(seed))
    comparison = compared(tmp_path, baseline="extra.y=7")
    assert comparison.baseline and comparison.baseline.name == "extra.y=7"


def test_hashes_are_short(tmp_path: Path) -> None:
    for corpus in ("a" * 64, "b" * 64):
        put(tmp_path, result(corpus_hash=corpus))
    comparison = compared(tmp_path, baseline="corpus_hash=bbbbbbbb")
    assert comparison.excluded[0].endswith("another corpus: corpus_hash=aaaaaaaa")
    assert "a" * 9 not in cli(tmp_path).stdout


# --- what is not compared


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"corpus_hash": "abc"}, "another corpus"),
        ({"tokenizer_hash": "c"}, "another tokenizer"),
        ({"steps": 100}, "another number of steps"),
        ({"tokens": 100}, "another number of tokens"),
        ({"keys": {"trainer": {"val_tokens": 1}}}, "another validation set"),
    ],
)
def test_incomparable_arms_are_left_out_and_named(tmp_path: Path, over: dict[str, Any], reason: str) -> None:
    arms(tmp_path)
    arms(tmp_path, effects={"gated": -1.0}, pos="learned", **over)
    comparison = compared(tmp_path, metric="val_loss")
    assert len(comparison.arms) == 3 and [
        one.startswith(f"not compared with the baseline, because of {reason}") for one in comparison.excluded
    ] == [True]
    assert (
        f"! not compared with the baseline, because of {reason}"
        in cli(tmp_path, "--metric", "val_loss", width=200).stdout
    )


def tokenizers(root: Path, val_tokens: int, **over: Any) -> Path:
    """Arms of one tokenizer, and a better one of another, with bits per byte of the report half and of all text."""
    keys = {"trainer": {"val_tokens": val_tokens}}
    arms(root, keys=keys, val_bpb_whole=2.0, **over)
    arms(root, effects={"gated": -1.0}, pos="learned", tokenizer_hash="c", keys=keys, val_bpb_whole=1.0, **over)
    return root


def test_tokenizers_are_compared_in_bits_per_byte_of_all_text(tmp_path: Path) -> None:
    comparison = compared(tokenizers(tmp_path / "a", 0, validation=3))
    assert comparison.metric.key == "val_bpb_whole" and len(comparison.arms) == 4 and comparison.excluded == ()
    halves = compared(tmp_path / "a", metric="val_bpb")
    assert len(halves.arms) == 3 and "the report half" in halves.excluded[0]


@pytest.mark.parametrize("metric", ["", "val_bpb", "val_bpb_whole"])
@pytest.mark.parametrize(("val_tokens", "validation"), [(100, 3), (0, 1)])
def test_tokenizers_are_not_compared_on_different_texts(
    tmp_path: Path, metric: str, val_tokens: int, validation: int
) -> None:
    comparison = compared(tokenizers(tmp_path, val_tokens, validation=validation), metric=metric)
    assert comparison.metric.key == (metric or "val_loss") and len(comparison.arms) == 3
    assert "another tokenizer" in comparison.excluded[0] and "if trainer.val_tokens=0" in comparison.excluded[0]


def test_runs_of_several_definitions_of_validation_are_not_pooled(tmp_path: Path) -> None:
    arms(tmp_path, effects={"mha": 0.0, "mqa": 0.1}, validation=3)
    for seed, validation in ((0, 3), (1, 2), (2, 3)):
        put(tmp_path, result(seed, attention="gqa", val_loss=1.0, validation=validation))
    comparison = compared(tmp_path)
    assert list(verdicts(comparison)) == ["mqa"]
    assert comparison.excluded[0].startswith("not compared: its runs differ in the definition of validation metrics")
    other = compared(tmp_path, baseline="attention=gqa")
    assert other.baseline is None and "nothing is compared with the baseline attention=gqa: " in other.excluded[0]
    assert other.sentence == "Nothing is compared: no two arms are comparable."
    assert other.sentence in cli(tmp_path, "--baseline", "attention=gqa").stdout


def test_values_that_an_earlier_version_chose_and_reported_are_marked(tmp_path: Path) -> None:
    assert any("best of all validations" in line for line in notes(compared(arms(tmp_path / "a", validation=2))))
    assert not any("earlier version" in line for line in notes(compared(arms(tmp_path / "b", validation=3))))
    speeds = compared(tmp_path / "a", metric="tokens_per_s")
    assert not any("earlier version" in line for line in notes(speeds))


@pytest.mark.parametrize(
    ("metric", "over", "reason"),
    [
        ("seconds", {"steps": 100}, "not compared with the baseline, because of another number of steps"),
        ("seconds", {"tokens": 100}, "not compared with the baseline, because of another number of tokens"),
        ("seconds", {"other_runs": 2}, "not compared: runs shared the machine with other runs"),
        ("tokens_per_s", {"other_runs": 2}, "not compared: runs shared the machine with other runs"),
        ("tokens_per_s", {"threads": 8}, "because of another number of CPU threads per process"),
        ("tokens_per_s", {"hardware": {"device": "cuda"}}, "because of other hardware"),
        ("peak_memory_bytes", {"hardware": {"device": "cuda"}}, "because of another device"),
        ("tokens_per_s", {"steps": 100}, ""),
        ("peak_memory_bytes", {"other_runs": 2}, ""),
    ],
)
def test_speeds_are_compared_only_under_equal_conditions(
    tmp_path: Path, metric: str, over: dict[str, Any], reason: str
) -> None:
    arms(tmp_path, threads=2)
    arms(tmp_path, effects={"gated": 0.0}, pos="learned", **{"threads": 2, **over})
    comparison = compared(tmp_path, metric=metric)
    assert len(comparison.arms) == (3 if reason else 4)
    assert (reason in comparison.excluded[0]) if reason else not comparison.excluded


def test_arms_whose_seeds_stop_at_other_steps_are_not_compared(tmp_path: Path) -> None:
    for seed, steps in ((0, 300), (1, 400)):
        put(tmp_path, result(seed, steps=steps))
        put(tmp_path, result(seed, attention="gqa", steps=700 - steps))
        put(tmp_path, result(seed, attention="mqa", steps=300))
    comparison = compared(tmp_path, baseline="attention=mha")
    assert list(verdicts(comparison)) == ["gqa"] and "another number of steps" in comparison.excluded[0]


def test_a_metric_that_was_not_measured_is_no_divergence(tmp_path: Path) -> None:
    arms(tmp_path, effects={"mha": 0.0, "mqa": 0.0}, val_loss_best=1.0)
    for seed in range(3):
        put(tmp_path, result(seed, attention="gqa", val_loss_best=None if seed else 1.0))
        put(tmp_path, result(seed, attention="gated", val_loss_best=None))
    comparison = compared(tmp_path, metric="val_loss_best")
    assert comparison.table.set_index("arm")["note"]["attention=gqa"] == "not measured in 2 of 3 runs"
    assert set(comparison.table["diverged"]) == {0}
    assert comparison.excluded == ("not compared: val loss, best weights was not measured: attention=gated",)


def test_a_run_without_a_finite_loss_diverged_whatever_the_metric(tmp_path: Path) -> None:
    arms(tmp_path)
    for seed in range(3):
        put(tmp_path, result(seed, attention="sink", val_loss=None, val_bpb=None, val_loss_best=9.0))
    for metric in ("val_loss", "tokens_per_s"):
        comparison = compared(tmp_path, metric=metric)
        assert comparison.table.set_index("arm")["note"]["attention=sink"] == "all 3 runs diverged"
        assert comparison.excluded == () and "is found (power 80 %)" in noise_floor(comparison)


@pytest.mark.parametrize(
    ("seeds", "loss", "reason"),
    [
        ({"mha": (0, 1), "gqa": (2, 3)}, 1.0, "no arm shares two seeds with the baseline"),
        ({"mha": (0, 1), "gqa": (0, 1)}, None, "too many runs diverged"),
        ({"mha": (0,), "gqa": (0,)}, 1.0, "with one seed per arm"),
    ],
)
def test_the_reason_for_no_verdict_is_named(
    tmp_path: Path, seeds: dict[str, tuple[int, ...]], loss: float | None, reason: str
) -> None:
    for attention, found in seeds.items():
        for seed in found:
            put(tmp_path, result(seed, attention=attention, val_loss=1.0 if attention == "mha" else loss))
    assert f"nothing is decided: {reason}" in compared(tmp_path).sentence


def test_arms_of_different_size_are_marked(tmp_path: Path) -> None:
    for seed in (0, 1):
        for attention, n_params in (("mha", 1_000_000), ("gqa", 900_000), ("gated", 1_005_000)):
            put(tmp_path, result(seed, attention=attention, n_params=n_params, val_loss=1.4 + seed / 100))
    sizes = {one.arm.values["attention"]: one.size for one in compared(tmp_path).arms}
    assert sizes == {"gqa": "-10.0% params", "gated": ""}
    assert "-10.0% params" in cli(tmp_path).stdout


def test_names_of_matched_arms_leave_out_the_computed_size(tmp_path: Path) -> None:
    for seed in (0, 1):
        for attention, ratio in (("mha", 4.0), ("gqa", 4.3)):
            given = result(seed, attention=attention, keys={"ffn": {"ratio": ratio}})
            given["variant"]["match"] = "params"
            put(tmp_path, given)
    assert [one.arm.name for one in compared(tmp_path).arms] == ["attention=gqa"]


def test_arms_without_comparison_show_the_table_only(tmp_path: Path) -> None:
    put(tmp_path, result())
    comparison = compared(tmp_path)
    assert comparison.baseline is None and comparison.arms == () and "Nothing is compared" in comparison.sentence
    assert cli(tmp_path).stdout.startswith("attention")


# --- the answer of a study


def test_a_study_says_whether_its_expectation_came_so(tmp_path: Path) -> None:
    comparison = compared(arms(tmp_path, keys={"about": ABOUT}))
    found = {str(one.expectation): one.outcome for one in answers(comparison)}
    assert found == {
        "attention=gated < attention=mha": "yes",
        "attention=mqa < attention=mha": "no, the reverse",
        "attention=gqa ~ attention=mha": "yes",
        "attention=sink ~ attention=mha": "undecided (no two such arms have finished)",
    }
    text = lines(comparison)
    assert text[0] == "question: Which attention is best?"
    assert text[2] == "found: of 4 expected comparisons, 2 as expected, 1 not as expected, 1 undecided"
    estimate = comparison.table.set_index("arm")["difference"]
    assert text[3].startswith("  attention=gated < attention=mha: yes: -0.0")
    difference = estimate["attention=gated"] - estimate["attention=mha"]
    assert f"{difference:+.4f}" in text[3] and text[3] in cli(tmp_path, width=200).stdout


def test_an_expectation_of_a_grid_is_about_arms_that_differ_in_nothing_else(tmp_path: Path) -> None:
    """The difference is the mean over the other factors, and keys of the compared option belong to it."""
    about = {**ABOUT, "expect": ["window=sliding ~ window=full"], "baseline": ""}
    for seed in range(3):
        for pos, cost in (("rope", 0.01), ("learned", 0.05)):
            for window, size in (("full", None), ("sliding", 32)):
                keys = {"about": about, **({"window": {"size": size}} if size else {})}
                loss = 1.5 + seed / 10 + (pos == "learned") + cost * (size is not None) + 1e-4 * (seed == 1)
                put(tmp_path, result(seed, pos=pos, window=window, keys=keys, val_loss=loss))
    [answer] = answers(compared(tmp_path))
    assert (
        answer.interval
        and answer.interval.estimate == pytest.approx(0.03)
        and answer.outcome == "no, the loss is higher"
    )


def test_arms_with_their_own_learning_rates_are_compared(tmp_path: Path) -> None:
    about = {**ABOUT, "expect": ["attention=gqa < attention=mha"], "baseline": ""}
    for seed in range(3):
        for attention, rate in (("gqa", 1e-3), ("mha", 3e-3)):
            keys = {"about": about, "optim": {"lr": rate}}
            loss = 1.5 + (attention == "mha") + 1e-3 * seed * rate
            put(tmp_path, result(seed, attention=attention, keys=keys, val_loss=loss))
    assert [answer.outcome for answer in answers(compared(tmp_path))] == ["yes"]


def test_expectations_stay_undecided_with_one_seed_or_a_diverged_run(tmp_path: Path) -> None:
    one = compared(arms(tmp_path / "a", seeds=1, keys={"about": ABOUT}))
    assert {answer.outcome for answer in answers(one)} == {
        "undecided (it takes two seeds)",
        "undecided (no two such arms have finished)",
    }
    arms(tmp_path / "b", keys={"about": ABOUT})
    put(tmp_path / "b", result(9, attention="gated", val_loss=None, keys={"about": ABOUT}))
    assert answers(compared(tmp_path / "b"))[0].outcome == "undecided (a run diverged)"


def test_views_of_the_loss_have_the_margin_of_the_study_and_other_metrics_no_answer(tmp_path: Path) -> None:
    two_arms(tmp_path, (0.01, 0.011, 0.012), "val_loss_best", keys={"about": {**ABOUT, "expect": EXPECTED}})
    comparison = compared(tmp_path, metric="val_loss_best")
    assert comparison.margin == 0.02 and [one.outcome for one in answers(comparison)] == ["yes"]
    other = compared(tmp_path, metric="tokens_per_s")
    assert other.margin == 0 and answers(other) == ()
    why = "answer: none, because the study expects differences in val loss, and these are in tokens/s"
    assert lines(other)[2:] == [why]


def test_a_failed_run_that_diverged_leaves_an_expectation_undecided(tmp_path: Path) -> None:
    two_arms(tmp_path, (0.01, 0.011, 0.012), keys={"about": {**ABOUT, "expect": EXPECTED}})
    failed(tmp_path, "gqa", 7, "diverged", keys={"about": {**ABOUT, "expect": EXPECTED}})
    assert [one.outcome for one in answers(compared(tmp_path))] == ["undecided (a run diverged)"]


def test_a_study_that_no_pair_of_arms_answers_names_what_does(tmp_path: Path) -> None:
    about = {**ABOUT, "expect": [], "answer": "a command fits the law"}
    assert lines(compared(arms(tmp_path, keys={"about": about})))[2:] == ["answer: a command fits the law"]


@pytest.mark.parametrize(
    "damaged", [7, {"question": 3}, {**ABOUT, "expect": ["x", 5, None], "margin": "wide", "baseline": []}]
)
def test_unreadable_text_of_a_study_is_ignored(tmp_path: Path, damaged: object) -> None:
    arms(tmp_path)
    for path in tmp_path.glob("*/*/result.json"):
        given = json.loads(path.read_text())
        given["config"]["about"] = damaged
        path.write_text(json.dumps(given))
    comparison = compared(tmp_path)
    assert comparison.study.expectations == () and comparison.margin == 0.01 and answers(comparison) == ()


# --- files and Python


def test_files_hold_the_same_differences(tmp_path: Path) -> None:
    comparison = compared(arms(tmp_path))
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "effects-csv", "markdown", "latex")}
    assert cli(tmp_path, *(x for kind, path in files.items() for x in (f"--{kind}", path))).returncode == 0
    raw, content = pd.read_csv(files["effects-csv"]), json.loads(files["json"].read_text(encoding="utf-8"))
    assert (
        list(raw["difference"])
        == list(comparison.table["difference"])
        == [one["difference"] for one in content["effects"]]
    )
    assert list(raw["verdict"]) == ["better", "equivalent", "worse"] and content["conclusion"] == comparison.sentence
    assert content["noise"] == noise_floor(comparison)
    markdown, latex = (files[kind].read_text(encoding="utf-8") for kind in ("markdown", "latex"))
    assert markdown == as_markdown(comparison) and latex == as_latex(comparison)
    for one in comparison.arms:
        assert f"| {one.arm.name} | {one.effect.estimate:+.4f} |" in markdown
        assert f"{one.arm.name} & ${one.effect.estimate:+.4f}$ &" in latex


def test_latex_escapes_what_has_a_meaning_there(tmp_path: Path) -> None:
    for seed in (0, 1):
        for name in ("a_b", "50%&#$"):
            put(tmp_path, result(seed, keys={"optim": {"note": name}}, val_loss=1.0 + seed))
    latex = as_latex(compared(tmp_path))
    assert r"50\%\&\#\$" in latex and r"a\_b" in latex and latex.count("\n\\bottomrule") == 1
    assert "|" not in as_markdown(compared(tmp_path)).split("\n\n")[0]


def test_texts_hold_everything_that_limits_the_conclusion(tmp_path: Path) -> None:
    arms(tmp_path, other_runs=1)
    arms(tmp_path, effects={"mha": 0.0}, pos="learned", steps=100)
    failed(tmp_path, "sink", 0, "error")
    comparison = compared(tmp_path)
    left = ["another number of steps", "shared the machine", "different budgets", "not finished: 1 failed"]
    for text in (as_markdown(comparison), as_latex(comparison), comparison._repr_html_()):
        assert all(part in text.lower() for part in left)


def test_latex_has_sentences_minus_signs_options_and_wrapped_text(tmp_path: Path) -> None:
    arms(tmp_path)
    put(tmp_path, result(3, attention="gated", val_loss=None))
    latex = as_latex(compared(tmp_path))
    caption = next(line for line in latex.splitlines() if line.startswith("\\caption{"))
    assert "(power 80 \\%). Compared with" in caption and caption.endswith(".}")
    interval = next(line for line in latex.splitlines() if line.startswith("attention=gated")).split(" & ")[2]
    low, high = interval.split(" to ")
    assert low.startswith("$-") and low.endswith("$") and high.startswith("$-") and high.endswith("$")
    assert "\\texttt{{-}{-}baseline}" in latex and "--" not in latex
    assert "p{0.25\\linewidth}" in latex and all(
        line.endswith(".\\par")
        for line in latex.partition("raggedright\n")[2].partition("\\end{minipage}")[0].splitlines()
    )


@pytest.mark.parametrize(("kind", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_differences_are_drawn(tmp_path: Path, kind: str, head: bytes) -> None:
    file = tmp_path / f"forest.{kind}"
    assert cli(arms(tmp_path), "--figure", file).returncode == 0
    content = file.read_bytes()
    assert content.startswith(head) and len(content) > 5000
    if kind == "svg":
        assert b'href="http' not in content and b"@import" not in content and b"url(http" not in content


@pytest.mark.parametrize("name", ["forest.jpg", "forest", "-"])
def test_other_pictures_are_refused(tmp_path: Path, name: str) -> None:
    done = cli(arms(tmp_path), "--figure", name, cwd=tmp_path)
    assert done.returncode == 2 and "expected a name that ends in .png, .svg, .pdf" in done.stderr and not done.stdout


def test_single_variants_have_no_picture(tmp_path: Path) -> None:
    put(tmp_path, result())
    done = cli(tmp_path, "--figure", tmp_path / "a.png")
    assert done.returncode == 2 and "no picture was drawn" in done.stderr and not (tmp_path / "a.png").exists()


def test_python_gives_the_frames_and_the_comparison(tmp_path: Path) -> None:
    arms(tmp_path, seeds=2)
    assert len(gptx.results(tmp_path)) == 8 and gptx.curves([tmp_path]).empty
    comparison = gptx.compare_runs(tmp_path, baseline="attention=gqa", margin=0.5)
    assert set(verdicts(comparison).values()) == {"equivalent"}
    page = comparison._repr_html_()
    assert page.count("<tr>") == 4 and "attention=mqa" in page and "<table>" in page
    with pytest.raises(GptxError, match="nowhere does not exist"):
        gptx.results("nowhere")


def test_names_in_html_are_escaped(tmp_path: Path) -> None:
    for note in ("<script>", "x"):
        put(tmp_path, result(keys={"optim": {"note": note}}))
    assert "<script>" not in compared(tmp_path)._repr_html_()


def test_frames_import_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    arms(tmp_path, seeds=2)
    code = "import sys, gptx; path = sys.argv[1]; gptx.compare_runs(path).sentence; gptx.results(path); "
    code += "gptx.curves(path); "
    code += "sys.exit(bool({'torch', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
