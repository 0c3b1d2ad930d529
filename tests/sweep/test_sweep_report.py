"""The report at the end of a sweep, and the sweep in MLflow."""

import shutil

from command import Gptx
from fake_runs import ask, database
from in_process import sweep_here

GRID = ("pos=rope,learned", "seed=0,1", "tracking=mlflow")


def test_sweep_leaves_a_report_and_a_parent_run(gptx: Gptx) -> None:
    done = sweep_here(gptx, *GRID)
    assert done.code == 0, done.err
    folder = gptx.sweep_folder / "report"
    assert f"report: {folder / 'report.html'}" in done.out
    names = {"effects.csv", "effects.png", "report.html", "variants.csv"}
    assert {path.name for path in folder.iterdir()} == names
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Compared with pos=" in page and "pos=rope,learned" in page
    db = database(gptx.outputs)
    [(parent, status)] = ask(
        db,
        "select r.run_uuid, r.status from runs r join tags t on r.run_uuid = t.run_uuid where t.key = 'gptx.sweep'"
        " and t.value = ?",
        gptx.sweep_folder.name,
    )
    assert status == "FINISHED"
    [(nested,)] = ask(db, "select count(*) from tags where key = 'mlflow.parentRunId' and value = ?", parent)
    assert nested == 4
    assert {path.name for path in (db.parent / "artifacts" / parent).rglob("*") if path.is_file()} == names

    shutil.rmtree(folder)
    folder.write_text("in the way")
    again = sweep_here(gptx, *GRID)
    assert again.code == 0 and "Compared with pos=" in again.out and "report: " not in again.out
    assert again.err.count("no report was written") == 1


def test_a_sweep_of_one_arm_leaves_no_report(gptx: Gptx) -> None:
    done = sweep_here(gptx, "seed=0,1")
    assert done.code == 0 and "report: " not in done.out and not (gptx.sweep_folder / "report").exists()
