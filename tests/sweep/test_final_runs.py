"""What follows a choice, from the command line: chosen rates and winners train with seeds that chose nothing."""

import pytest
from command import Gptx
from in_process import sweep_here

from gptx.runs.tuning_runs import losing_runs
from gptx.sweep.state.folder import Sweep, SweepPlan

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
