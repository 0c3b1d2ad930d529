"""Keys that only some arms of a sweep have: they reach these arms, and the others run once, as without the key."""

import pytest
from command import Gptx, one_line
from in_process import run_here, sweep_here

from gptx.config.compositions import Compositions
from gptx.sweep.plan.cells import compose_cells
from gptx.sweep.plan.partial_keys import PartialKeys
from gptx.sweep.state.folder import Sweep


def test_key_of_swept_options_reaches_the_arms_that_have_it(gptx: Gptx) -> None:
    done = sweep_here(gptx, "window=sliding,dilated", "window.size=8", "dry_run=true")
    assert done.code == 0 and "2 combinations: 2 to run" in done.out, done.err
    assert "runs without it" not in done.err


def test_arms_without_the_key_run_once(gptx: Gptx) -> None:
    overrides = ["window=full,sliding", "window.size=4,8", "trainer.max_steps=2", "trainer.eval_every=1"]
    done = sweep_here(gptx, *overrides)
    assert done.code == 0 and "3 combinations: 3 to run" in done.out, done.err
    remarks = [line for line in done.err.splitlines() if line.startswith("gptx: ")]
    assert remarks == ["gptx: window.size is a key of window=sliding; window=full runs without it"]
    assert len(gptx.folders()) == 3
    plan = Sweep(gptx.outputs, gptx.sweep_folder.name).plan
    assert [cell.title for cell in plan.cells] == [
        "window=full",
        "window=sliding window.size=4",
        "window=sliding window.size=8",
    ]
    again = sweep_here(gptx, *overrides, "dry_run=true")
    assert again.code == 0 and "3 finished" in again.out
    alone = sweep_here(gptx, "window=full", "seed=0,1", *overrides[2:], "dry_run=true")
    assert "1 to run" in alone.out and "1 finished" in alone.out  # window=full is the same run


def test_key_that_no_arm_has_is_a_mistake(gptx: Gptx) -> None:
    one_line(sweep_here(gptx, "window=full,sliding", "window.sise=8"), "unknown key 'window.sise'")
    one_line(sweep_here(gptx, "seed=0,1", "window.size=8"), "unknown key 'window.size'. It is a key of window=")


def test_learning_rates_and_matching(gptx: Gptx) -> None:
    window = ["window=full,sliding", "window.size=4,8"]
    rates = sweep_here(gptx, *window, "sweep.lr=[1e-3,3e-3]", "match=params", "dry_run=true")
    assert rates.code == 0 and "6 combinations" in rates.out, rates.err


@pytest.mark.full
def test_search_gives_the_key_to_the_points_that_have_it(gptx: Gptx) -> None:
    window = ["window=full,sliding", "window.size=4,8"]
    search = ["hydra/sweeper=optuna", "sweep.fresh_seeds=0", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler=random"]
    shown = sweep_here(gptx, *window, *search, "dry_run=true")
    assert shown.code == 0 and "window=full runs without it" in shown.err, shown.err
    steps = ["trainer.max_steps=2", "trainer.eval_every=1"]
    assert sweep_here(gptx, *window, *search, *steps).code == 0
    assert sweep_here(gptx, *window, *search, *steps).code == 0  # resumes
    [sweep] = (gptx.outputs / ".sweeps").iterdir()
    cells = Sweep(gptx.outputs, sweep.name).plan.cells
    assert all(("window.size" in cell.title) is ("window=sliding" in cell.title) for cell in cells)


def test_single_run_still_rejects_the_key(gptx: Gptx) -> None:
    one_line(run_here(gptx, *gptx.tiny, "window.size=8"), "unknown key 'window.size'")


def test_study_gives_its_keys_to_the_arms_that_have_them(gptx: Gptx) -> None:
    """In the study's grid and in its fixed values."""
    (gptx.cwd / "own" / "experiment").mkdir(parents=True)
    study = gptx.cwd / "own" / "experiment" / "mine.yaml"
    study.write_text("# @package _global_\nhydra: {sweeper: {params: {window: 'full,sliding', window.size: '4,8'}}}\n")
    place = ["-m", "--config-dir", str(gptx.cwd / "own"), *gptx.tiny, "experiment=mine", "dry_run=true"]
    done = run_here(gptx, *place)
    assert done.code == 0 and "3 combinations: 3 to run" in done.out, done.err
    study.write_text("# @package _global_\nwindow: {size: 4}\nhydra: {sweeper: {params: {window: 'full,sliding'}}}\n")
    done = run_here(gptx, *place)
    assert done.code == 0 and "2 combinations: 2 to run" in done.out, done.out
    assert "window.size is a key of window=sliding; window=full runs without it" in done.err


def test_study_whose_defaults_yaml_reads_as_false(gptx: Gptx) -> None:
    (gptx.cwd / "own" / "experiment").mkdir(parents=True)
    (gptx.cwd / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /tracking: off\n"
    )
    done = run_here(gptx, "--config-dir", str(gptx.cwd / "own"), "experiment=mine", "dry_run=true")
    one_line(
        done, "a defaults list has a value that YAML does not read as text but as bool", '- override /tracking: "off"'
    )


def test_combinations_that_become_equal_are_one() -> None:
    grid = [
        [f"window={w}", f"window.size={s}", f"seed={n}"] for w in ("full", "sliding") for s in (4, 8) for n in (0, 1)
    ]
    compositions = Compositions()
    applied = PartialKeys(grid, compositions).all_applied(grid)
    assert len(applied) == 2 + 4
    plain = compose_cells([["window=full", "seed=0"], ["window=full", "seed=1"]], compositions)
    assert [cell.identity for cell in compose_cells(applied, compositions)][:2] == [cell.identity for cell in plain]


def test_key_whose_default_is_null_belongs_to_its_option(gptx: Gptx) -> None:
    (gptx.cwd / "own" / "attention").mkdir(parents=True)
    file = gptx.cwd / "own" / "attention" / "mine.yaml"
    file.write_text("_target_: gptx.attention.gqa.GQA\nn_kv_head: null\nqk_norm: false\nsoftcap: 0.0\nbias: false\n")
    place = ["-m", "--config-dir", str(gptx.cwd / "own"), *gptx.tiny]
    done = run_here(gptx, *place, "attention=mine,gqa", "dry_run=true")
    shown = done.out + done.err
    assert "runs without it" not in shown and "delete from config" not in shown, shown
    assert "1 to run" in shown or "2 to run" in shown, shown
