"""What a sweep checks before it starts anything: mistakes in the command, cells that cannot run, and dry runs."""

import pytest
from command import Gptx
from hydra import compose as hydra_compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from in_process import run_here, sweep_here
from omegaconf import OmegaConf

from gptx.config import composition
from gptx.config.compose import compose
from gptx.errors import ConfigError
from gptx.sweep.execute.launcher import make
from gptx.sweep.plan.cells import compose_cells
from gptx.sweep.sweep_overrides import check_given_once, single_values


def test_nothing_starts_while_a_cell_is_rejected(gptx: Gptx) -> None:
    done = sweep_here(gptx, "attention=mha,gqa", "model.n_head=4,3")
    assert done.code == 2
    assert "model.d_model=16 is not divisible by model.n_head=3" in done.out
    [line] = done.err.splitlines()
    assert "2 of 4 combinations are rejected" in line and "sweep.skip_invalid=true" in line
    assert gptx.folders() == []


def test_dry_run_starts_nothing_and_writes_nothing(gptx: Gptx) -> None:
    done = sweep_here(gptx, "attention=mha,gqa", "pos=rope,learned,none", "seed=0,1", "dry_run=true")
    assert done.code == 0, done.err
    assert "12 combinations" in done.out
    assert not gptx.outputs.exists()


def test_each_text_is_tokenised_once_and_an_unreadable_one_is_rejected(gptx: Gptx) -> None:
    for name, data in {"good.txt": b"It is so. " * 2000, "bad.txt": b"\xfd\xff\xfe" * 9000}.items():
        (gptx.cwd / name).write_bytes(data)
    paths = ",".join(str(gptx.cwd / name) for name in ("good.txt", "bad.txt"))
    overrides = [f"data.path={paths}", "pos=rope,none", f"paths.data={gptx.cwd}/fresh", "dry_run=true"]
    done = sweep_here(gptx, *overrides)
    assert done.code == 2, done.err
    # The readable text once, and the unreadable one for each cell.
    assert done.err.splitlines() == ["tokenising text with byte"] * 3
    assert "bad.txt" in done.out and "2 to run" in done.out
    assert sweep_here(gptx, *overrides).err.splitlines() == ["tokenising text with byte"] * 2


def test_each_set_of_options_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compose()  # the default config, once in a process
    composed: list[list[str]] = []
    monkeypatch.setattr(composition, "hydra_compose", lambda *a, **k: composed.append(a[1]) or hydra_compose(*a, **k))  # type: ignore[func-returns-value]
    cells = compose_cells([[f"attention={a}", f"seed={s}"] for a in ("mha", "gqa") for s in range(3)])
    assert composed == []  # the files of options replace groups of the default config
    found = [(cell.config["variant"]["attention"], cell.config["seed"]) for cell in cells]
    assert found[2:4] == [("mha", 2), ("gqa", 0)]
    compose_cells([["experiment=pos_ablation", f"seed={s}"] for s in range(3)])
    assert composed == [["experiment=pos_ablation"]]


def test_cells_that_crash_while_they_are_checked_are_rejected(gptx: Gptx) -> None:
    overrides = ["attention=scaled", "attention.gain=1,-1,-2,-3"]
    done = sweep_here(gptx, *overrides)
    assert done.code == 2 and gptx.folders() == []
    assert "ArithmeticError: a gain below nothing" in done.out and "SystemExit: 0" in done.out
    assert "its code crashed the process (SIGSEGV)" in done.out
    done = sweep_here(gptx, *overrides, "sweep.skip_invalid=true")
    assert done.code == 0, done.err
    assert len(gptx.folders()) == 1


@pytest.mark.full
def test_cells_that_crash_while_they_are_matched_are_rejected(gptx: Gptx) -> None:
    done = sweep_here(gptx, "attention=scaled", "attention.gain=1,-1,-2,-3", "match=params", "dry_run=true")
    assert "ArithmeticError: a gain below nothing" in done.out and "(SIGSEGV)" in done.out


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sweep.jobs=1,2"], "sweep.jobs=1,2: sweep.jobs is an option of the sweep as a whole; give it one value"),
        (["sweep.jobs=-1"], "sweep.jobs=-1: expected at least 0"),
        (["sweep.retry=-1"], "sweep.retry=-1: expected at least 0"),
        (["sweep.timeout=-1"], "sweep.timeout=-1"),
        (["sweep.jobz=2"], "unknown key 'sweep.jobz'. Did you mean 'sweep.jobs'?"),
        (["hydra.launcher.jobs=3"], "hydra.launcher.jobs"),
        (["attention=gqq", "seed=0,1"], "unknown option attention=gqq. Did you mean"),
        (["pos=glob(zzz*)"], "gptx: pos=glob(zzz*) has no values"),
        (["experiment=smoke/ffn_norm,smoke/gqa_groups"], "a study is a sweep by itself"),
        (["seed=0,1", "trainer.max_step=3"], "unknown key 'trainer.max_step'"),
    ],
)
def test_mistake_in_a_sweep_is_reported_in_one_line(gptx: Gptx, overrides: list[str], expected: str) -> None:
    done = sweep_here(gptx, *overrides)
    assert done.code == 2
    assert done.err.count("\n") == 1 and expected in done.err, done.err
    assert not gptx.outputs.exists()


def parsed(*overrides: str) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=0,1", "seed=2,3"], "seed=0,1 and seed=2,3: only the last would count; give seed once"),
        (["+seed=4", "seed=range(3)"], "+seed=4 and seed=range(3)"),
        (["paths.outputs=a,b"], "paths.outputs=a,b: paths.outputs is an option of the sweep as a whole"),
        (["optim.lr=interval(1e-4,1e-2)"], "optim.lr=interval(1e-4,1e-2) needs hydra/sweeper=optuna"),
        (["attention=mha,gqa", "seed=range(3,1)"], "seed=range(3,1) has no values"),
    ],
)
def test_override_that_a_grid_rejects(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        check_given_once(parsed(*overrides))
        list(map(single_values, parsed(*overrides)))
    assert str(rejected.value).startswith(expected) and "\n" not in str(rejected.value)


def test_key_with_one_value_may_be_given_twice() -> None:
    check_given_once(parsed("seed=0", "pos=rope,none", "seed=1"))


def test_class_that_is_no_launcher_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"_target_=pathlib.Path is not a gptx\.sweep\.execute\.launcher\.Launcher"):
        make(OmegaConf.create({"_target_": "pathlib.Path"}))


OF_SWEEPS = ["sweep.jobs=2", "sweep.lr=[1e-3]", "match=params", "hydra/launcher=slurm", "hydra.sweeper.n_trials=3"]


@pytest.mark.parametrize("override", OF_SWEEPS)
def test_option_of_a_sweep_is_rejected_in_a_single_run(gptx: Gptx, override: str) -> None:
    more = ["hydra/sweeper=optuna"] * override.startswith("hydra.sweeper")
    done = run_here(gptx, *gptx.tiny, override, *more)
    assert done.code == 2
    assert f"{override} is an option of a sweep: give -m" in done.err and done.err.count("\n") == 1
    assert not gptx.outputs.exists()


def test_single_run_of_a_study_warns_and_can_be_checked_for_a_cluster(gptx: Gptx) -> None:
    slurm = ["hydra/launcher=slurm", "hydra.launcher.device=cpu", "dry_run=true"]
    done = run_here(gptx, *gptx.tiny, "experiment=smoke/pos_ablation", "pos=none", *slurm)
    assert done.code == 0 and "1 combination: 1 to run" in done.out
    assert done.err == "gptx: this is one run, without the study's sweep of seed: -m or gptx sweep runs the study\n"
    (gptx.cwd / "own" / "experiment").mkdir(parents=True)
    (gptx.cwd / "own" / "experiment" / "halves.yaml").write_text("# @package _global_\nsweep: {halving: true}\n")
    done = run_here(gptx, *gptx.tiny, f"--config-dir={gptx.cwd}/own", "experiment=halves", "dry_run=true")
    assert done.code == 0 and "1 combination: 1 to run" in done.out
    assert done.err == "gptx: this is one run, without the study's sweep.halving: -m or gptx sweep runs the study\n"


def test_study_has_its_own_grid_and_the_command_line_wins(gptx: Gptx) -> None:
    own = gptx.cwd / "own" / "experiment"
    own.mkdir(parents=True)
    grid = 'hydra: {sweeper: {params: {attention: "mha,gqa", seed: "0,1"}}}'
    own.joinpath("few.yaml").write_text(f"# @package _global_\nstudy: few\nabout: {{question: 'Which?'}}\n{grid}\n")
    arguments = ["-m", "--config-dir", str(own.parent), *gptx.tiny, "experiment=few", "seed=3", "dry_run=true"]
    done = run_here(gptx, *arguments)
    assert done.code == 0, done.err
    assert "Which?" in done.out and "2 combinations: 2 to run" in done.out
