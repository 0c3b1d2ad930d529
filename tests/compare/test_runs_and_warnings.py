"""Figures of single runs, marks of the best, sizes of variants, and runs that only served a choice."""

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_runs import make_run
from rich.console import Console
from test_compare import cli, grid, put, result, warnings_of

from gptx.compare.frames import curves, results
from gptx.compare.page import show
from gptx.compare.run_rows import read_rows
from gptx.runs import journal
from gptx.runs.auto_seed_runs import AutoSeedRuns, sweeps_until_decided
from gptx.runs.metrics import METRICS
from gptx.runs.run_lists import SWEEPS
from gptx.runs.tuning_runs import TuningRuns, losing_runs


def bold(root: Path) -> tuple[list[str], str]:
    """The figures in bold, and all text of the comparison in a terminal."""
    out = StringIO()
    show([root], Console(file=out, force_terminal=True, width=200, color_system="standard", highlight=False))
    table = out.getvalue().rpartition("KV/token")[2]  # below the conclusion and the headings
    return re.findall(r"\x1b\[1;32m([^\x1b]*)\x1b", table), re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())


def test_each_seed_is_in_csv_and_json(tmp_path: Path) -> None:
    grid(tmp_path, seeds=(0, 1, 2))
    assert cli(tmp_path, "--runs-csv", tmp_path / "runs.csv", "--json", tmp_path / "all.json").returncode == 0
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert len(runs) == 24 and set(runs["seed"]) == {0, 1, 2} and {"attention", "pos", "window"} <= set(runs)
    assert {metric.key for metric in METRICS} <= set(runs)
    content = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert [run["val_loss"] for run in content["runs"]] == list(runs["val_loss"])
    for variant in content["variants"]:
        of = runs[runs["run"].isin(variant["runs"])]
        assert list(of.sort_values("seed")["seed"]) == variant["seeds"]
        assert of["val_bpb"].mean() == pytest.approx(variant["val_bpb_mean"])
    found = json.loads((tmp_path / runs["run"][0] / "result.json").read_text(encoding="utf-8"))
    assert found["val_bpb"] == runs["val_bpb"][0] and found["seed"] == runs["seed"][0]


def test_results_have_a_row_for_each_run_finished_or_not(tmp_path: Path) -> None:
    put(tmp_path, result(0, keys={"model": {"n_layer": 4}}))
    put(tmp_path, result(1, keys={"model": {"n_layer": 6}}, peak_memory_bytes=None))
    make_run(tmp_path, end="failed", seed=7)
    frame = results(read_rows(journal.runs(tmp_path)))
    assert list(frame["status"]) == ["finished", "finished", "failed"] and list(frame["seed"]) == [0, 1, 7]
    assert list(frame["model.n_layer"])[:2] == [4, 6] and list(frame["peak_memory_bytes"].isna()) == [False, True, True]
    assert frame.columns.is_unique and frame["val_loss"].dtype == float


def test_curves_hold_every_value_of_the_journals(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, steps=10, seed=0), make_run(tmp_path, steps=20, seed=1)]
    broken = make_run(tmp_path, seed=2)
    (broken / journal.NAME).write_text("no journal\n")
    frame = curves([*runs, broken])
    assert list(frame.columns) == ["run", "step", "tokens", "seconds", "metric", "value"]
    found = {
        (str(run), r.step, key, value) for run in runs for r in journal.metrics(run) for key, value in r.values.items()
    }
    assert set(frame[["run", "step", "metric", "value"]].itertuples(index=False, name=None)) == found
    assert (frame.groupby("run")["seconds"].diff().dropna() >= 0).all() and frame["tokens"].isna().all()


def test_curves_count_tokens_and_the_time_of_the_processes(tmp_path: Path) -> None:
    config = {"trainer": {"batch_size": 8}, "model": {"context": 16}}
    records: list[dict[str, Any]] = [
        {"t": 1_000, "kind": "start", "config": config},
        {"t": 3_000, "kind": "metrics", "step": 1, "values": {"train/loss": 3.0}},
        {"t": 90_000, "kind": "resume", "step": 1},
        {"t": 94_500, "kind": "metrics", "step": 2, "values": {"train/loss": 2.0}},
    ]
    frame = curves([put(tmp_path, result(), records)])
    assert list(frame["tokens"]) == [128, 256] and list(frame["seconds"]) == [2.0, 6.5]


# --- the best of a column


def test_single_runs_have_no_best(tmp_path: Path) -> None:
    for attention, bpb in (("mha", 2.0), ("gqa", 2.0008)):
        put(tmp_path, result(0, attention=attention, val_bpb=bpb, kv_bytes_per_token=len(attention) * int(bpb * 1e4)))
    figures, text = bold(tmp_path)
    assert figures == ["60.0 kB"], "only what follows from the config"
    assert "one seed each, which decides nothing" in text and "not of losses and speeds, because n=1" in text
    put(tmp_path, result(1, attention="mha", val_bpb=2.0001, kv_bytes_per_token=60_000))
    figures, text = bold(tmp_path)
    assert figures == ["60.0 kB"] and "not of losses and speeds, because n=1 decides nothing" in text
    put(tmp_path, result(1, attention="gqa", val_bpb=2.0009, kv_bytes_per_token=60_024))
    figures, text = bold(tmp_path)
    assert "2.0000" in figures and "n=1" not in text and "bold: best mean of the column" in text
    assert "bold" not in cli(tmp_path).stdout


@pytest.mark.parametrize(
    ("over", "ranked"),
    [
        ({}, {"1.0000", "1.9000", "50.0k", "500 MB"}),
        ({"steps": 100}, {"50.0k", "500 MB"}),
        ({"tokens": 100}, {"50.0k", "500 MB"}),
        ({"keys": {"trainer": {"val_tokens": 1}}}, {"50.0k", "500 MB"}),
        ({"tokenizer_hash": "c"}, {"50.0k", "500 MB"}),
        ({"threads": 8}, {"1.0000", "1.9000", "500 MB"}),
        ({"other_runs": 2}, {"1.0000", "1.9000", "500 MB"}),
        ({"hardware": {"device": "cpu", "cpu": "Xeon"}}, {"1.0000", "1.9000", "500 MB"}),
        ({"hardware": {"device": "cuda"}}, {"1.0000", "1.9000"}),
    ],
)
def test_best_is_marked_only_where_rows_are_comparable(tmp_path: Path, over: dict[str, Any], ranked: set[str]) -> None:
    better = {"val_loss": 1.0, "val_bpb": 1.9, "tokens_per_s": 5e4, "peak_memory_bytes": 500_000_000}
    for seed in (0, 1):
        put(tmp_path, result(seed))
        put(tmp_path, result(seed, attention="gqa", **better, **over))
    assert set(bold(tmp_path)[0]) == ranked


# --- sizes


def test_variants_of_different_size_are_named(tmp_path: Path) -> None:
    runs = [put(tmp_path, result(n_params=1_000_000)), put(tmp_path, result(attention="gqa", n_params=1_009_000))]
    assert warnings_of(*runs) == "", "within 1 %"
    runs.append(put(tmp_path, result(attention="mqa", n_params=800_000, flops_per_token=4_000_000)))
    text = warnings_of(*runs)
    assert (
        "variants of different size: params 800k (mqa·rope·full·single) to 1.01M (gqa·rope·full·single), 26.1% more"
        in text
    )
    assert "; FLOPs/token 4.00M (mqa·rope·full·single) to 5.06M" in text and "match=params" in text


@pytest.mark.parametrize(("match", "named"), [("params", False), ("flops", True), ("none", True)])
def test_only_the_matched_quantity_has_to_be_equal(tmp_path: Path, match: str, named: bool) -> None:
    runs = []
    for attention, flops in (("mha", 5_000_000), ("gqa", 6_000_000)):
        given = result(attention=attention, flops_per_token=flops)
        given["variant"]["match"] = match
        runs.append(put(tmp_path, given))
    assert ("variants of different size: FLOPs/token" in warnings_of(*runs)) == named


# --- runs that tuned a learning rate


def tuned(outputs: Path) -> tuple[Path, Path]:
    """Two rates of a study, of which the sweep chose the second."""
    lost, chosen = (put(outputs, result(keys={"optim": {"lr": rate}}), name=f"run{rate}") for rate in (1e-3, 3e-3))
    sweep = outputs / SWEEPS / "grid-1"
    sweep.mkdir(parents=True)
    TuningRuns(compared=("grid/run0.003",), left_out=("grid/run0.001",)).save(sweep)
    return lost, chosen


def test_rates_that_lost_are_not_variants(tmp_path: Path) -> None:
    lost, chosen = tuned(tmp_path)
    out = cli(tmp_path).stdout
    assert "1 variant, 1 run " in out and "optim.lr" not in out
    assert "1 run left out with which a sweep chose a learning rate or an arm; --all shows them" in out
    for arguments in ([tmp_path, "--all"], [lost, chosen]):
        out = cli(*arguments).stdout
        assert "2 variants, 2 runs" in out and "optim.lr" in out and "left out" not in out
    assert "1 run left out with which a sweep chose" in cli(lost.parent, "--study", "grid").stdout
    assert "1 variant" in cli(lost).stdout, "a run that is given itself is shown"


def test_a_rate_that_another_sweep_chose_is_shown_and_damage_leaves_nothing_out(tmp_path: Path) -> None:
    tuned(tmp_path)
    other = tmp_path / SWEEPS / "grid-2"
    other.mkdir()
    TuningRuns(compared=("grid/run0.001",)).save(other)
    assert "2 variants" in cli(tmp_path).stdout
    for sweep in (tmp_path / SWEEPS).iterdir():
        (sweep / "tuning.json").write_text("{")
    assert "2 variants" in cli(tmp_path).stdout


def test_sweeps_that_added_seeds_until_decided_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = [tmp_path / SWEEPS / name for name in ("auto", "damaged", "other")]
    for sweep in sweeps:
        sweep.mkdir(parents=True)
    AutoSeedRuns(runs=("study/one",)).save(sweeps[0])
    (sweeps[1] / "auto_seeds.json").write_text("[")
    AutoSeedRuns(runs=("study/two",)).save(sweeps[2])
    assert sweeps_until_decided([tmp_path / "study" / "one"]) == [sweeps[0]]
    assert sweeps_until_decided([tmp_path / "study" / "three"]) == []
    monkeypatch.chdir(tmp_path)
    runs = [Path("study/one"), tmp_path / "study" / "one", tmp_path / "study" / "x" / ".." / "one"]
    assert sweeps_until_decided(runs) == [Path(SWEEPS, "auto")], "one folder in three spellings"
    assert sweeps_until_decided(reversed(runs)) == sweeps[:1]


def test_losing_rates_are_found_in_every_spelling_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost, chosen = tuned(tmp_path)
    monkeypatch.chdir(lost.parent)
    spellings = [lost, Path(lost.name), Path("..", lost.parent.name, lost.name)]
    assert losing_runs([chosen, *spellings]) == set(spellings)
