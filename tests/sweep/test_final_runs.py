"""What follows a choice, from the command line: chosen rates and winners train with seeds that chose nothing."""

from pathlib import Path

import pytest
from command import Gptx
from in_process import sweep_here

from gptx.runs.folder import RunFolder
from gptx.runs.tuning_runs import losing_runs
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.final_runs import compared_runs, save_final_cells
from gptx.sweep.state.folder import PlannedCell, Sweep, SweepPlan

STEPS = ["trainer.max_steps=4", "trainer.eval_every=1"]


def plan(gptx: Gptx) -> SweepPlan:
    return Sweep(gptx.outputs, gptx.sweep_folder.name).plan


def test_chosen_rates_train_with_the_seeds_of_the_grid(gptx: Gptx) -> None:
    overrides = ["window=full,sliding", "seed=0", "sweep.lr=[1e-9,1e-2]", *STEPS]
    done = sweep_here(gptx, *overrides)
    assert done.code == 0 and "2 variants, 2 runs" in done.out, done.err
    tried = [cell for cell in plan(gptx).cells if not cell.is_final]
    final = [cell for cell in plan(gptx).cells if cell.is_final]
    assert [cell.overrides[-1] for cell in tried] == ["optim.lr=1e-09", "optim.lr=0.01"] * 2
    assert all("seed=1000" in cell.overrides for cell in tried)
    assert [cell.title for cell in final] == [f"window={w} optim.lr=0.01 seed=0" for w in ("full", "sliding")]
    assert losing_runs(gptx.folders()) == {gptx.outputs / str(cell.run) for cell in tried}
    again = sweep_here(gptx, *overrides)
    assert again.code == 0 and "chosen:" in done.out + done.err and "chosen:" not in again.out + again.err
    assert len(gptx.folders()) == 6 and [cell.run for cell in plan(gptx).cells] == [c.run for c in (*tried, *final)]


@pytest.mark.full
def test_arm_that_halving_leaves_trains_with_fresh_seeds(gptx: Gptx) -> None:
    overrides = ["window=full,sliding,chunked", "sweep.halving=true", "sweep.fresh_seeds=2", *STEPS]
    done = sweep_here(gptx, *overrides)
    assert done.code == 0 and "1 variant, 2 runs" in done.out and "2 of 5 dropped" in done.err, done.err
    final = [cell for cell in plan(gptx).cells if cell.is_final]
    assert [cell.overrides[-1] for cell in final] == ["seed=1000", "seed=1001"] and len({c.arm for c in final}) == 1
    winner = [cell for cell in plan(gptx).cells if cell.arm == final[0].arm and not cell.is_final]
    assert gptx.outputs / str(winner[0].run) in losing_runs(gptx.folders())
    shown = gptx.run("gptx.sweep", "collect", "--outputs", str(gptx.outputs))
    assert shown.code == 0 and "1 variant, 2 runs" in shown.out, shown.err


def planned(run: str, is_final: bool = False) -> PlannedCell:
    return PlannedCell(title=run, arm=run, run=f"study/{run}", is_final=is_final)


def saved(outputs: Path, *cells: PlannedCell) -> Sweep:
    sweep = Sweep(outputs, "study-1")
    sweep.path.mkdir(parents=True)
    sweep.save_plan(SweepPlan(study="study", has_final_cells=True, cells=cells))
    return sweep


def test_runs_that_chose_a_winner_give_no_verdict(tmp_path: Path) -> None:
    sweep = saved(tmp_path, planned("a"), planned("b"), planned("a1000", is_final=True))
    a, b, final = (tmp_path / "study" / run for run in ("a", "b", "a1000"))
    without = compared_runs(sweep, [a, b])
    assert without.runs == [a, b] and without.no_verdict and losing_runs([a, b]) == set()
    found = compared_runs(sweep, [a, b, final])
    assert found.runs == [final] and not found.no_verdict and losing_runs([a, b, final]) == {a, b}


def test_final_runs_of_an_earlier_winner_are_not_compared(tmp_path: Path) -> None:
    sweep = saved(tmp_path, planned("a"), planned("a1000", is_final=True))
    new = Cell([], "b1000", "b", {}, RunFolder(tmp_path / "study" / "b1000"))
    new.config = {"study": "study", "trainer": {"max_steps": 1}}
    save_final_cells(sweep, [new], keep_others=False)
    assert {cell.run: cell.is_final for cell in sweep.plan.cells} == {
        "study/a": False,
        "study/a1000": False,
        "study/b1000": True,
    }
    save_final_cells(sweep, [], keep_others=True)
    assert sum(cell.is_final for cell in sweep.plan.cells) == 1
