"""Tables of runs: a comparison that is computed from them equals that of the run folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_compare import cli, put, result
from test_report import SIZES, curve, diverged, study, unfinished

import gptx
from gptx.compare.comparison import compare
from gptx.compare.flat_results import flat_result, read_cell, read_result_row, write_cell
from gptx.compare.report.html_report import html_report
from gptx.compare.saved_tables import saved_files
from gptx.compare.selection import find_runs
from gptx.runs.records import Result, RunStatus
from gptx.runs.unit_losses import UnitLosses, write_unit_losses


def units(seed: int) -> UnitLosses:
    rng = np.random.default_rng(seed)
    half = np.arange(40) % 2 == 0
    return UnitLosses(
        step=400,
        document=np.arange(40) // 2,
        offset=np.arange(40) % 2 * 100,
        select=~half,
        report=half,
        nats=rng.normal(90.0, 3.0, 40),
        tokens=np.full(40, 60),
        size=np.full(40, 100),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished, diverged, unfinished and damaged runs, with curves and losses of units."""
    root = tmp_path_factory.mktemp("saved") / "outputs"
    study(root, keys={"paths": {"outputs": "/secret"}, "about": {"question": "Which?", "margin": 0.02}, **SIZES})
    diverged(root)
    unfinished(root)
    lost = put(root, result(9, pos="rope"), name="lost")
    (lost / "result.json").write_text("{")
    (lost / "journal.jsonl").write_text("{\n")
    for i, folder in enumerate(sorted(root.glob("grid/[0-8]"))):
        write_unit_losses(folder, units(i))
    return root


def test_comparison_of_the_tables_equals_that_of_the_runs(runs: Path, tmp_path: Path) -> None:
    options = ["--baseline", "pos=learned", "--json", "-"]
    first = cli(runs, *options, "--export", tmp_path / "tables")
    assert first.returncode == 0, first.stderr
    assert sorted(one.name for one in (tmp_path / "tables").iterdir()) == ["curves.csv", "runs.csv", "units.csv"]
    again = cli(tmp_path / "tables", *options)
    assert again.returncode == 0, again.stderr
    before, after = (json.loads(done.stdout[: done.stdout.rindex("}") + 1]) for done in (first, again))
    text = json.dumps(before, indent=1).replace(f"{runs}/", f"{tmp_path / 'tables'}/")
    assert json.dumps(after, indent=1) == text and before["effects"] and before["statuses"]["damaged"] == 1
    assert "/secret" not in (tmp_path / "tables" / "runs.csv").read_text()


def test_report_of_the_tables_equals_that_of_the_runs(runs: Path, tmp_path: Path) -> None:
    for name, text in saved_files(find_runs(runs).tables()).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    pages = [html_report(compare(find_runs(folder)), "study").splitlines() for folder in (runs, tmp_path)]
    differing = [(a, b) for a, b in zip(*pages, strict=True) if a.replace(f"{runs}/", f"{tmp_path}/") != b]
    assert [a for a, _ in differing if not a.startswith("<footer>")] == []
    before, after = (gptx.curves(folder).drop(columns="run") for folder in (runs, tmp_path))
    assert before.equals(after) and len(before) > 100
    for one, other in zip(find_runs(runs).rows, find_runs(tmp_path).rows, strict=True):
        mine, theirs = (
            found.unit_losses(row.run) for found, row in ((find_runs(runs), one), (find_runs(tmp_path), other))
        )
        assert (mine is None) == (theirs is None)
        assert mine is None or theirs is None or np.array_equal(mine.nats, theirs.nats)


def test_remarks_about_the_runs_are_kept(runs: Path, tmp_path: Path) -> None:
    (runs / ".sweeps" / "s").mkdir(parents=True)
    listed = [f"grid/{i}" for i in range(9)]
    (runs / ".sweeps" / "s" / "auto_seeds.json").write_text(json.dumps({"runs": listed[:8]}))
    (runs / ".sweeps" / "s" / "tuning.json").write_text(json.dumps({"left_out": listed[8:]}))
    cli(runs, "--export", tmp_path / "tables")
    out = cli(tmp_path / "tables", width=400).stdout
    assert "seeds were added until the arms were decided" in out and "1 run left out with which a sweep chose" in out


def test_damaged_tables_are_reported_in_one_line(runs: Path, tmp_path: Path) -> None:
    files = saved_files(find_runs(runs).tables())
    for name, old, new in (("curves.csv", ",0,", ",zero,"), ("runs.csv", "run,row_status", "runs,row_status")):
        for file, text in files.items():
            (tmp_path / file).write_text(text.replace(old, new, 3) if file == name else text)
        done = cli(tmp_path)
        assert done.returncode == 2 and "are damaged" in done.stderr and done.stderr.count("\n") == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_cells_are_read_as_they_were_written(value: object) -> None:
    assert write_cell(value) and read_cell(write_cell(value)) == value


@given(st.dictionaries(st.text(min_size=1), JSON, max_size=4), st.text())
def test_results_are_read_as_they_were_written(more: dict[str, object], text: str) -> None:
    made = Result(
        status=RunStatus.FINISHED, config={"optim": more, "about": {"margin": 0.1}}, name=text, code={"a.b": text}
    )
    assert repr(read_result_row(flat_result(made))) == repr(made)  # NaN is not equal to itself


def test_a_curve_keeps_values_that_are_not_finite(tmp_path: Path) -> None:
    given = result(0, SIZES)
    lines = curve(given, 40)
    lines[2]["values"]["train/loss"] = float("nan")
    put(tmp_path / "runs", given, lines)
    for name, text in saved_files(find_runs(tmp_path / "runs").tables()).items():
        (tmp_path / name).write_text(text)
    found = find_runs(tmp_path).curves
    assert found[found["metric"] == "train/loss"]["value"].isna().tolist() == [False, True, False]
