"""sweep.lr: every arm is trained with several learning rates and compared at its best one."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from fake_runs import folder
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gptx.errors import ConfigError
from gptx.runs.tuning_runs import losing_runs
from gptx.sweep.plan import learning_rates as rates
from gptx.sweep.state.folder import PlannedCell, Sweep, SweepPlan


def cell(outputs: Path, arm: str, rate: float, seed: int, loss: float | None, status: str = "finished") -> PlannedCell:
    """A cell of the plan, whose run ended with a loss of the selection half; None: it never started. The report half
    has the opposite order."""
    run = outputs / "study" / f"none-{arm}-{rate}-{seed}"
    if loss is not None:
        run = folder(outputs, f"{abs(hash((arm, rate, seed))):08x}")
        result = {"status": status, "val_loss": 9 - loss, "val_loss_select": loss}
        (run / "result.json").write_text(json.dumps(result))
    name = f"{arm} optim.lr={rate!r}".strip()
    title = f"{name} seed={seed}"
    return PlannedCell(title=title, arm=name, overrides=tuple(name.split()), run=f"study/{run.name}", steps=20)


def grid(outputs: Path, losses: dict[str, dict[float, list[float | None]]]) -> list[PlannedCell]:
    return [
        cell(outputs, arm, rate, seed, loss)
        for arm, of in losses.items()
        for rate, seeds in of.items()
        for seed, loss in enumerate(seeds)
    ]


def at_the_edge(arm: str, rate: str, extreme: str, wider: str) -> str:
    found = f"{arm}: the best learning rate {rate} is the {extreme} one tried"
    return f"{found}, so a better one may lie beyond; try sweep.lr={wider}"


def test_every_combination_gets_every_rate() -> None:
    found = rates.with_rates([["attention=mha", "seed=0"], ["attention=gqa", "seed=0"]], [3e-3, 1e-5])
    assert found == [
        ["attention=mha", "seed=0", "optim.lr=1e-05"],
        ["attention=mha", "seed=0", "optim.lr=0.003"],
        ["attention=gqa", "seed=0", "optim.lr=1e-05"],
        ["attention=gqa", "seed=0", "optim.lr=0.003"],
    ]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ([1e-3, 0.0], "0.0 is not a learning rate; expected numbers above 0"),
        ([1e-3, -1], "-1 is not a learning rate"),
        ([1e-3, "fast"], "'fast' is not a learning rate"),
        ([True, 1e-3], "True is not a learning rate"),
        ([1e-3, float("nan")], "nan is not a learning rate"),
        ([1e-3, float("inf")], "inf is not a learning rate"),
        ([1e-3], "sweep.lr=[0.001] leaves nothing to choose; optim.lr=0.001 sets the rate of all arms"),
        ([1, 1.0], "sweep.lr=[1,1] contains a rate twice"),
    ],
)
def test_wrong_rates(given: list[Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rates.with_rates([["attention=mha"]], given)
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["optim.lr=2e-3", "++optim.lr=2e-3"])
def test_combination_with_its_own_rate_is_rejected(override: str) -> None:
    with pytest.raises(ConfigError, match=r"optim.lr=2e-3 and sweep.lr=\[0.001,0.003\] both set the learning rate"):
        rates.with_rates([["attention=mha", override]], [1e-3, 3e-3])


def test_every_arm_gets_its_best_rate(tmp_path: Path) -> None:
    cells = grid(
        tmp_path,
        {
            "attention=mha": {1e-3: [2.0, 2.2], 3e-3: [1.9, 2.0], 1e-2: [2.5, 2.1]},
            "attention=mqa": {1e-3: [3.0, 3.0], 3e-3: [2.9, 3.0], 1e-2: [2.5, 2.1]},
            "attention=gqa": {1e-3: [1.0, 1.0], 3e-3: [2.9, 3.0], 1e-2: [2.5, 2.1]},
        },
    )
    mha, mqa, gqa = choices = rates.choose(SweepPlan(cells=tuple(cells)), tmp_path)
    assert [choice.arm for choice in choices] == ["attention=mha", "attention=mqa", "attention=gqa"]
    assert (mha.best, mqa.best, gqa.best) == (3e-3, 1e-2, 1e-3)
    assert mha.compared == [tmp_path / str(cell.run) for cell in cells[2:4]]
    assert list(rates.warnings(choices)) == [
        at_the_edge("attention=mqa", "0.01", "largest", "[0.001,0.003,0.01,0.03]"),
        at_the_edge("attention=gqa", "0.001", "smallest", "[0.0003,0.001,0.003,0.01]"),
    ]
    console = Console(width=80, force_terminal=True, color_system="standard")
    with console.capture() as shown:
        console.print(rates.table(choices))
    text = shown.get()
    assert all(f"\x1b[1m*{best}\x1b[0m" in text for best in ("1.9500", "2.3000", "1.0000")) and "2.9500" in text


def save(outputs: Path, cells: list[PlannedCell], has_final_cells: bool) -> Sweep:
    sweep = Sweep(outputs, "study-1")
    sweep.path.mkdir(parents=True)
    sweep.save_plan(SweepPlan(study="study", lr=True, has_final_cells=has_final_cells, cells=tuple(cells)))
    return sweep


def test_runs_at_other_rates_are_recorded_as_tuning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a sweep of an earlier version, rates were chosen with the seeds of the comparison."""
    cells = grid(
        tmp_path, {"attention=mha": {1e-3: [2.0, None], 3e-3: [1.9, 2.0]}, "attention=gqa": {1e-3: [1.0, 1.0]}}
    )
    compared = rates.show_choices(save(tmp_path, cells, has_final_cells=False))
    out = capsys.readouterr().out
    assert "(* best)" in out and "*1.9500" in out and "[bold]" not in out
    every = [tmp_path / str(cell.run) for cell in cells if (tmp_path / str(cell.run)).exists()]
    assert losing_runs(every) == set(every) - set(compared) == {tmp_path / str(cells[0].run)}


def test_runs_that_chose_a_rate_are_not_compared(tmp_path: Path) -> None:
    """Seed 0 chooses, seeds 1 and 2 are compared; runs at a rate that an earlier command chose are left out, too."""
    losses: dict[str, dict[float, list[float | None]]] = {
        "a=1": {1e-3: [2.0, 1.0, 1.0], 3e-3: [1.9, 5.0, None]},
        "a=2": {1e-3: [None, 1.0, 1.0]},
    }
    cells = [replace(one, is_final="seed=0" not in one.title) for one in grid(tmp_path, losses)]
    first = cells[3]
    assert rates.show_choices(save(tmp_path, cells, has_final_cells=True)) == [tmp_path / str(cells[4].run)]
    every = {tmp_path / str(one.run) for one in cells if (tmp_path / str(one.run)).exists()}
    assert losing_runs(every) == every - {tmp_path / str(cells[4].run)} and first.title.endswith("seed=0")


def test_unfinished_runs_do_not_count_and_are_reported(tmp_path: Path) -> None:
    cells = grid(
        tmp_path,
        {
            "a=1": {1e-3: [2.0, None], 2e-3: [2.1, 2.1], 4e-3: [2.2, 2.2]},
            "a=2": {1e-3: [None], 2e-3: [None]},
        },
    )
    cells.append(cell(tmp_path, "a=1", 2e-3, 2, 0.1, status="failed"))
    one, two = rates.choose(SweepPlan(cells=tuple(cells)), tmp_path)
    assert one.best == 1e-3 and len(one.compared) == 1
    assert two.best is None and two.compared == []
    shown_warnings = list(rates.warnings([one, two]))
    assert shown_warnings[0].startswith(
        "a=1: the best learning rate 0.001 was chosen among finished runs only; missing runs: 2 of 3 at 0.001"
    )
    assert shown_warnings[-1] == "a=2: no run has finished, so there is no best learning rate"


def test_incomplete_rate_does_not_win_over_a_complete_one(tmp_path: Path) -> None:
    cells = grid(tmp_path, {"a=1": {1e-3: [2.0, 2.0], 2e-3: [1.9, 2.0], 4e-3: [1.5, None]}})
    [choice] = rates.choose(SweepPlan(cells=tuple(cells)), tmp_path)
    assert choice.best == 2e-3
    basis = "rates at which all runs have finished"
    shown_warnings = f"a=1: the best learning rate 0.002 was chosen among {basis}; missing runs: 1 of 2 at 0.004"
    assert list(rates.warnings([choice])) == [shown_warnings]


def test_diverged_run_is_never_the_best(tmp_path: Path) -> None:
    cells = grid(tmp_path, {"": {1e-3: [2.0], 2e-3: [1.9], 4e-3: [float("nan")]}})
    [choice] = rates.choose(SweepPlan(cells=tuple(cells)), tmp_path)
    assert choice.arm == "" and choice.best == 2e-3 and list(rates.warnings([choice])) == []


@given(st.dictionaries(st.sampled_from([1e-3, 2e-3, 4e-3, 8e-3]), st.lists(st.floats(0, 9), max_size=3)))
def test_best_rate_has_the_lowest_mean(losses: dict[float, list[float]]) -> None:
    ends = {rate: {Path(str(i)): loss for i, loss in enumerate(losses[rate])} for rate in sorted(losses)}
    choice = rates.RateChoice("arm", ends, 3)
    complete = any(len(of) == 3 for of in losses.values())
    means = {rate: mean(of) for rate, of in losses.items() if len(of) == 3 or (of and not complete)}
    if choice.best is None:
        assert means == {}
    else:
        assert means[choice.best] == min(means.values())
        assert all(means[rate] > means[choice.best] for rate in means if rate < choice.best), "not the smaller"
