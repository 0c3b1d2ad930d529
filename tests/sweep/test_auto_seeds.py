"""sweep.seeds=auto: which runs are started, equal decisions after a kill, failures, the preview, and mistakes.
Training is simulated, except in one sweep."""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from command import Gptx
from conftest import Maker
from fake_cells import FACTS
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import sweep_arguments, sweep_here
from omegaconf import DictConfig, OmegaConf
from test_sweep_interrupted import kill_at_random

from gptx.compare.__main__ import main as compare_main
from gptx.errors import ConfigError
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import MetricsRecord
from gptx.statistics.verdict import Verdict
from gptx.sweep.__main__ import main
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.plan import auto_seeds
from gptx.sweep.plan.auto_report import AutoPreview, show_verdicts
from gptx.sweep.plan.cells import Cell
from gptx.sweep.search.auto_source import AutoSeedsSource
from gptx.sweep.state.folder import AutoSeeds, Sweep, SweepPlan
from gptx.sweep.state.records import AttemptOutcome

AUTO = AutoSeeds(min_seeds=3, max_seeds=6, margin=0.01, baseline="base")
ARMS = ("base", "far", "same", "near")
Loss = Callable[[str, int], float]


def loss_of(arm: str, seed: int) -> float:
    """One arm is far worse, one is equivalent, one stays undecided."""
    noise = random.Random(f"{arm}{seed}").gauss(0, 1)
    effects = {"base": 0.0, "far": 1 + 1e-3 * noise, "same": 1e-5 * noise, "near": 0.05 * noise}
    return 3 + random.Random(seed).random() + effects[arm]


def cells(outputs: Path, arms: Sequence[str] = ARMS, auto: AutoSeeds = AUTO, force: bool = False) -> list[Cell]:
    found = []
    for arm in arms:
        for seed in range(auto.max_seeds):
            config = {"study": "s", "force": force, "seed": seed, "trainer": {"max_steps": 1}, "strategy": {}}
            title = f"{arm} seed={seed}"
            folder = RunFolder(outputs / "s" / title)
            found.append(Cell([*arm.split(), f"seed={seed}"], title, arm, config, folder, facts=FACTS))
    return found


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cell, "create_folder", lambda cell: cell.folder.path.mkdir(parents=True, exist_ok=True))


class SimulatedAutoSweep:
    """Outputs, in which the same command is started again and again."""

    def __init__(self, outputs: Path, loss: Loss = loss_of) -> None:
        self.outputs, self.loss = outputs, loss
        self.trained: list[str] = []
        self.followed: list[Path] = []
        self.failing: set[str] = set()

    def command(self, found: list[Cell], ends: float = math.inf, order: random.Random | None = None) -> AutoSeedsSource:
        """Run the sweep, one run at a time in any order; it is killed after this many runs have ended."""
        dashboard = Dashboard(0, 0, {}, 0.0)
        source = AutoSeedsSource(AUTO, found, self.outputs, ["brief"], dashboard, self.followed.append)
        active: list[Task] = []
        while ends > 0:
            active += source.next_tasks(2)
            if not active:
                break
            task = active.pop(order.randrange(len(active)) if order else 0)
            source.ended(self.train(task))
            ends -= 1
        assert ends <= 0 or source.done
        return source

    def train(self, task: Task) -> End:
        assert task.folder.exists() and "brief" in task.overrides
        self.trained.append(task.title)
        if task.title in self.failing:
            return End(task, AttemptOutcome.FAILED, "the loss is not finite")
        arm, _, seed = task.title.partition(" seed=")
        with Journal(task.folder) as log:
            log.write(MetricsRecord(step=1, values={"val/loss": 99.0}))
            log.write(MetricsRecord(step=2, values={"val/loss": self.loss(arm, int(seed))}))
        (task.folder / "result.json").write_text(json.dumps({"status": "finished", "val_loss": 0.0}))
        return End(task, AttemptOutcome.FINISHED)


def runs(counts: dict[str, int]) -> list[str]:
    return sorted(f"{arm} seed={seed}" for arm, count in counts.items() for seed in range(count))


def test_decided_arms_stop_and_the_baseline_continues_with_the_undecided_ones(tmp_path: Path) -> None:
    sweep = SimulatedAutoSweep(tmp_path)
    state = sweep.command(cells(tmp_path)).state
    verdicts = {arm.arm: (arm.verdict, arm.seeds) for arm in state.arms}
    assert verdicts["far"] == (Verdict.WORSE, 3) and verdicts["same"] == (Verdict.EQUIVALENT, 3)
    assert verdicts["near"] == (Verdict.UNDECIDED, 6)
    assert sorted(sweep.trained) == runs({"base": 6, "far": 3, "same": 3, "near": 6})
    assert {path.name for path in (tmp_path / "s").iterdir()} == set(sweep.trained), "only these have folders"
    assert sorted(path.name for path in sweep.followed) == sorted(sweep.trained)


def test_same_command_again_trains_nothing_and_decides_the_same(tmp_path: Path) -> None:
    sweep = SimulatedAutoSweep(tmp_path)
    first = sweep.command(cells(tmp_path)).state
    sweep.trained.clear()
    again = sweep.command(cells(tmp_path))
    assert again.state == first and again.done and sweep.trained == []


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 8), max_size=4), st.randoms())
def test_killed_commands_and_any_order_end_as_an_undisturbed_one(kills: list[int], order: random.Random) -> None:
    with TemporaryDirectory() as folder:
        outputs = Path(folder)
        sweep = SimulatedAutoSweep(outputs)
        for ends in kills:
            sweep.command(cells(outputs), ends, order)
        sweep.command(cells(outputs), order=order)
        assert sorted(sweep.trained) == runs({"base": 6, "far": 3, "same": 3, "near": 6}), "each run once"


def test_runs_of_an_earlier_grid_are_used_only_as_far_as_they_are_needed(tmp_path: Path) -> None:
    sweep, found = SimulatedAutoSweep(tmp_path), cells(tmp_path)
    for cell in found:
        cell.create_folder()
        sweep.train(cell.task(["brief"]))
        cell.facts = None  # finished cells are not checked
    sweep.trained.clear()
    state = sweep.command(found).state
    assert [arm.seeds for arm in state.arms] == [3, 3, 6] and sweep.trained == []


def test_an_arm_with_a_failed_run_stops_and_the_same_command_tries_again(tmp_path: Path) -> None:
    sweep = SimulatedAutoSweep(tmp_path)
    sweep.failing = {"far seed=1"}
    far, *_ = sweep.command(cells(tmp_path)).state.arms
    assert far.verdict is Verdict.UNDECIDED and far.progress == "failed"
    assert "far seed=3" not in sweep.trained
    sweep.failing.clear()
    sweep.trained.clear()
    far, *_ = sweep.command(cells(tmp_path)).state.arms
    assert far.verdict is Verdict.WORSE and sweep.trained == ["far seed=1"]


def test_nothing_continues_without_the_baseline(tmp_path: Path) -> None:
    sweep = SimulatedAutoSweep(tmp_path)
    sweep.failing = {"base seed=3"}
    state = sweep.command(cells(tmp_path)).state
    assert [arm.progress for arm in state.arms] == ["decided", "decided", "failed"]
    assert not any(title.endswith(("=4", "=5")) for title in sweep.trained)


def test_diverged_result_is_no_verdict(tmp_path: Path) -> None:
    sweep = SimulatedAutoSweep(
        tmp_path, lambda arm, seed: math.nan if (arm, seed) == ("far", 0) else loss_of(arm, seed)
    )
    far, *_ = sweep.command(cells(tmp_path)).state.arms
    assert far.verdict is Verdict.UNDECIDED and far.progress == "failed"


def test_force_trains_all_needed_runs_again(tmp_path: Path) -> None:
    sweep = SimulatedAutoSweep(tmp_path)
    sweep.command(cells(tmp_path))
    before = sorted(sweep.trained)
    sweep.trained.clear()
    sweep.command(cells(tmp_path, force=True))
    assert sorted(sweep.trained) == before


def test_preview_counts_the_fewest_and_the_most_runs(tmp_path: Path) -> None:
    found, sweep = cells(tmp_path), SimulatedAutoSweep(tmp_path)
    shown = AutoPreview.of(AUTO, found, tmp_path)
    assert "12 to 24 runs" in shown.note and len(shown.later) == 12 and not shown.dropped
    sweep.command(found)
    shown = AutoPreview.of(AUTO, cells(tmp_path), tmp_path)
    assert not shown.later and sorted(shown.dropped) == sorted({cell.title for cell in found} - set(sweep.trained))


def test_report_shows_verdict_interval_seeds_and_early_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = cells(tmp_path)
    SimulatedAutoSweep(tmp_path).command(found)
    show_verdicts(AUTO, [cell.planned() for cell in found], tmp_path)
    output = capsys.readouterr().out
    lines = {line.split()[1]: line for line in output.splitlines() if "│" in line or "|" in line}
    assert "worse" in lines["far"] and "stopped early" in lines["far"] and "+1.0" in lines["far"]
    assert "equivalent" in lines["same"] and "undecided" in lines["near"] and "stopped early" not in lines["near"]
    assert "biased away from zero" in output and "sweep.max_seeds=6 seeds were not enough" in output


def test_another_design_for_the_same_runs_is_reported(tmp_path: Path) -> None:
    planned = tuple(cell.planned() for cell in cells(tmp_path))
    sweep = Sweep(tmp_path, "s-1")
    assert auto_seeds.changed_design(AUTO, planned, sweep) == ""
    with sweep.work(SweepPlan(auto=AUTO, cells=planned)):
        pass
    assert sweep.plan.auto == AUTO
    assert auto_seeds.changed_design(AUTO, planned, sweep) == ""
    warning = auto_seeds.changed_design(replace(AUTO, max_seeds=9), planned[:1], Sweep(tmp_path, "s-2"))
    assert "(sweep.max_seeds was 6)" in warning


# ------------------------------------------------------------------------------------------------------------ mistakes


def options(**sweep: object) -> DictConfig:
    given = {
        "seeds": "auto",
        "min_seeds": 3,
        "max_seeds": 6,
        "margin": 0.01,
        "baseline": "",
        "lr": [],
        "halving": False,
    }
    return OmegaConf.create({"sweep": given | sweep})


@pytest.mark.parametrize(
    ("sweep", "of_sweep", "expected"),
    [
        ({"max_seeds": 2}, [], "sweep.max_seeds=2: expected at least sweep.min_seeds=3"),
        ({"seeds": "all"}, [], "sweep.seeds=all: expected auto; seed=0,1,2 gives the seeds themselves"),
        ({"seeds": ""}, ["sweep.margin=0.1"], "sweep.margin=0.1 is an option of sweep.seeds=auto"),
        ({"lr": [1e-3, 2e-3]}, [], "sweep.lr and sweep.seeds=auto both"),
        ({"halving": True}, [], "sweep.halving and sweep.seeds=auto both"),
    ],
)
def test_options_that_contradict_each_other(sweep: dict[str, object], of_sweep: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("(", r"\(")):
        auto_seeds.check_options(options(**sweep), of_sweep, [["attention=mha"]])


def test_seeds_are_given_once() -> None:
    with pytest.raises(ConfigError, match=r"seed=1 and sweep\.seeds=auto both set the seeds"):
        auto_seeds.check_options(options(), [], [["attention=mha", "seed=1"]])


def test_baseline_is_found_by_some_of_its_overrides(tmp_path: Path) -> None:
    found = cells(tmp_path, ["attention=mha pos=rope", "attention=mha pos=none", "attention=gqa pos=rope"])
    assert auto_seeds.auto_seeds(found, options()).baseline == "attention=mha pos=rope"
    named = auto_seeds.auto_seeds(found, options(baseline="pos=rope attention=gqa"))
    assert named.baseline == "attention=gqa pos=rope" == auto_seeds.auto_seeds(found, options(baseline="gqa")).baseline
    for name, count in (("attention=mla", "none"), ("attention=mha", "2")):
        with pytest.raises(ConfigError, match=f'sweep.baseline="{name}" names {count} of the arms, expected one of: '):
            auto_seeds.auto_seeds(found, options(baseline=name))


def test_arms_that_do_not_compare(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is 1 arm"):
        auto_seeds.auto_seeds(cells(tmp_path, ["base"]), options())
    found = cells(tmp_path)
    found[-1].config["tokenizer"] = {"vocab": 9}
    with pytest.raises(ConfigError, match="tokenizer cannot vary"):
        auto_seeds.auto_seeds(found, options())
    found = cells(tmp_path)
    found[1].config["seed"] = 0
    with pytest.raises(ConfigError, match="data_seed cannot have several values"):
        auto_seeds.auto_seeds(found, options())
    found = cells(tmp_path)
    found[0].rejection = "it cannot be"
    with pytest.raises(ConfigError, match="the first arm, base, is the baseline but is rejected"):
        auto_seeds.auto_seeds(found, options())


# --------------------------------------------------------------------------------------------------- the real command

DESIGN = ["sweep.seeds=auto", "sweep.min_seeds=2", "sweep.max_seeds=3"]
GRID = ["attention=mha,gqa", *DESIGN, "sweep.baseline=gqa"]


def test_sweep_of_the_command_line(gptx: Gptx, capsys: pytest.CaptureFixture[str]) -> None:
    preview = sweep_here(gptx, *GRID, "dry_run=true")
    assert preview.code == 0, preview.err
    assert (
        "4 to 6 runs" in preview.out and "6 combinations: 4 to run" in preview.out and "2 if undecided" in preview.out
    )
    assert not gptx.outputs.exists()
    done = sweep_here(gptx, *GRID)
    assert done.code == 0, done.err
    assert "difference of the loss from attention=gqa" in done.out
    losses = {
        (config["attention"]["n_kv_head"], config["seed"]): [r.values["val/loss"] for r in _validations(folder)][-1]
        for folder in gptx.folders()
        if (config := json.loads((folder / "result.json").read_text())["config"])
    }
    heads = sorted({head for head, _ in losses})
    differences = [losses[heads[1], seed] - losses[heads[0], seed] for seed in sorted({seed for _, seed in losses})]
    assert f"{np.mean(differences):+.4f}" in done.out
    again = sweep_here(gptx, *GRID)
    assert (
        again.code == 0 and again.out.split("difference of the loss")[1] == done.out.split("difference of the loss")[1]
    )
    assert main(["collect", "--outputs", str(gptx.outputs)]) == 0
    collected = capsys.readouterr().out
    assert "difference of the loss from attention=gqa" in collected
    for shown in (done.out, collected):  # no verdicts but the sequential ones
        before = shown.split("difference of the loss from")[0]
        assert "2 variants" in before and "for all arms together" not in before and "undecided:" not in before
    (name,) = [folder.name for folder in (gptx.outputs / ".sweeps").iterdir() if folder.is_dir()]
    assert compare_main([str(gptx.outputs)]) == 0
    compared = " ".join(capsys.readouterr().out.split())
    assert "for all arms together" in compared
    assert compared.count("seeds were added until the arms were decided") == 1
    assert f"`gptx sweep collect {name} --outputs {gptx.outputs}` shows valid ones" in compared
    for wrong in ("seed=0,1", "sweep.max_seeds=1", "sweep.baseline=mla"):
        mistake = sweep_here(gptx, *GRID, wrong)
        assert mistake.code == 2 and len(mistake.err.splitlines()) == 1, mistake.err


def _validations(folder: Path) -> list[MetricsRecord]:
    from gptx.runs.journal import metrics

    return [record for record in metrics(folder) if "val/loss" in record.values]


@pytest.mark.full
def test_killed_sweep_equals_an_undisturbed_one(make: Maker) -> None:
    killed, undisturbed = make("killed"), make("undisturbed")
    overrides = ["kernel=fragile", *GRID]
    done = sweep_here(undisturbed, *overrides)
    assert done.code == 0, done.err
    arguments, rng = sweep_arguments(killed, *overrides), random.Random(0)
    for folders in (0, 2):
        kill_at_random(killed, arguments, rng, folders)
    last = killed.run("gptx.run", *arguments)
    assert last.code == 0, last.err
    assert last.out.split("difference of the loss")[1] == done.out.split("difference of the loss")[1]
    assert sorted(f.name for f in killed.folders()) == sorted(f.name for f in undisturbed.folders())
