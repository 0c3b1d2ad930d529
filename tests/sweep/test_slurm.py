"""The Slurm launcher without a Slurm: options, states of jobs, commands, copies of the code."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_runs
import pytest
from command import TESTCLUSTER, Gptx
from composed import composed
from conftest import Trained
from fake_cells import FACTS
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from in_process import run_here
from omegaconf import OmegaConf

from gptx.config.overrides import conf_dir
from gptx.config.plain_dict import plain_dict
from gptx.errors import ConfigError
from gptx.hardware.device import Machine
from gptx.runs.folder import RunFolder
from gptx.runs.provenance import own_modules
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.execute.launcher import End, Launcher, Task, make
from gptx.sweep.execute.slurm import Slurm
from gptx.sweep.execute.slurm_cluster import JobState
from gptx.sweep.execute.slurm_job import Job
from gptx.sweep.execute.slurm_reports import NodeReport, job_end
from gptx.sweep.execute.snapshot import copy_code
from gptx.sweep.execute.watchdog import Limits
from gptx.sweep.plan.cells import Cell
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import AttemptOutcome, JobsSubmitted
from gptx.training.preflight import preflight


def test_run_is_checked_for_the_device_of_the_nodes(trained: Trained) -> None:
    node = Machine("cuda", per_node=4, cores=2)
    cfg = composed(*trained.gptx.tiny, "precision=auto", "device=auto", "strategy=ddp")
    facts = preflight(cfg, node).facts
    assert (facts.processes, facts.hardware.device, facts.dtype) == (4, "cuda", "bfloat16")
    cfg = composed(*trained.gptx.tiny, "device=cuda", "strategy=ddp", "strategy.nproc=8")
    assert preflight(cfg, node).facts.processes == 8  # on two nodes
    with pytest.raises(
        ConfigError, match=r"device=mps is not available: with hydra\.launcher\.device=cuda a node has cuda and cpu"
    ):
        preflight(composed(*trained.gptx.tiny, "device=mps"), node)
    with pytest.raises(ConfigError, match="device=mps is not available: this machine has"):
        preflight(composed(*trained.gptx.tiny, "device=mps"))


def launcher_of(*overrides: str) -> Launcher:
    """The launcher that these overrides configure."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra_compose("config", list(overrides), return_hydra_config=True)
    return make(cfg.hydra.launcher)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["hydra/launcher=slrum"], "unknown option hydra/launcher=slrum. Did you mean 'slurm'?"),
        (["hydra/launcher=slurm", "hydra.launcher.minuts=5"], "Did you mean 'hydra.launcher.minutes'?"),
        (["hydra/launcher=slurm", "+hydra.launcher.minuts=5"], "Did you mean 'hydra.launcher.minutes'?"),
    ],
)
def test_misspelled_launcher_or_key_is_reported_in_one_line(gptx: Gptx, overrides: list[str], message: str) -> None:
    done = run_here(gptx, "-m", *gptx.tiny, *overrides, "seed=0")
    assert done.code == 2
    assert message in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    "override, message",
    [
        ("minutes=long", "hydra.launcher.minutes='long': expected a whole number, such as 1440"),
        ("setup=3", "hydra.launcher.setup=3: expected a list"),
        ("per_node=0", "hydra.launcher.per_node=0: expected at least 1"),
        ("minutes=2", "is not shorter than hydra.launcher.minutes=2"),
        ("device=tpu", "hydra.launcher.device=tpu: expected cuda or cpu"),
    ],
)
def test_launcher_rejects_wrong_values(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        launcher_of("hydra/launcher=example_cluster", f"hydra.launcher.{override}")
    assert message in str(rejected.value)


def test_profile_of_a_cluster_and_missing_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = launcher_of("hydra/launcher=example_cluster", "+hydra.launcher.sbatch.exclusive=true")
    assert isinstance(launcher, Slurm)
    keys = launcher.keys
    assert (keys.partition, keys.per_node, keys.minutes, keys.sbatch) == ("gpu", 4, 1440, {"exclusive": True})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError,
        match="sbatch is not installed on this machine; to try it without a cluster, launch/testcluster starts one",
    ):
        launcher.open(Sweep(tmp_path, "it"), OmegaConf.create(), 1)
    says = "echo scontrol: error: no DNS >&2; echo scontrol: fatal: no >&2; exit 1"
    for tool, text in {"sbatch": "", "scontrol": says}.items():
        (tmp_path / tool).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / tool).chmod(0o755)
    with pytest.raises(ConfigError, match="slurm: Slurm's scontrol failed: fatal: no; to try it without a cluster"):
        launcher.open(Sweep(tmp_path, "it"), OmegaConf.create(), 1)
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "mistaken.yaml").write_text("defaults: [slurm]\npartitoin: gpu\n")
    with pytest.raises(ConfigError, match=r"'hydra\.launcher\.partitoin'\. Did you mean 'hydra\.launcher\.partition'"):
        launcher_of(f"hydra.searchpath=[{tmp_path}]", "hydra/launcher=mistaken")


def test_end_of_a_job_from_its_reports_and_its_state(tmp_path: Path) -> None:
    task = Task("it", tmp_path / "run", (), 1, "cpu")

    def end(state: str, *reports: NodeReport) -> End | None:
        for node, report in enumerate(reports):
            report.write(tmp_path, "7_1", 0, node)
        return job_end(task, "7_1", JobState(state), tmp_path)

    def failed(reason: str) -> End:
        return End(task, AttemptOutcome.FAILED, reason)

    training = NodeReport("n0")
    assert end("PENDING") is None
    assert end("CANCELLED") == End(task, AttemptOutcome.CANCELLED, "cancelled")
    assert end("RUNNING", training) is None
    assert end("COMPLETING", training) is None  # it may be about to be queued again
    assert end("NODE_FAIL", training) == failed("its node failed on n0")
    assert end("OUT_OF_MEMORY", training) == failed("out of memory on n0: Slurm killed it")
    assert "hydra.launcher.signal_delay" in end("TIMEOUT", training).reason  # type: ignore[union-attr]
    assert "without an error message on n0 (Slurm: FAILED)" in end("FAILED", training).reason  # type: ignore[union-attr]
    rejected = NodeReport("n0", AttemptOutcome.REJECTED, "a key is wrong")
    assert end("COMPLETED", rejected) == End(task, AttemptOutcome.REJECTED, "a key is wrong")
    peer, limit = (
        NodeReport("n0", AttemptOutcome.FAILED, "lost a peer"),
        NodeReport("n1", AttemptOutcome.LIMIT_EXCEEDED, "used 9 GB"),
    )
    assert end("COMPLETED", peer, limit) == End(task, AttemptOutcome.LIMIT_EXCEEDED, "used 9 GB")


def test_requeued_job_does_not_force_again(tmp_path: Path) -> None:
    """A job with force=true that is requeued after it has started."""
    run = fake_runs.make_run(tmp_path, uid="a" * 32)
    task = Task("it", run, (), 1, "cpu")
    job = Job(task, ("force=true",), tmp_path, 1, 0, 0, replaces="a" * 32, limits=Limits())
    assert job.run_overrides() == ["force=true"]
    assert replace(job, replaces="").run_overrides() == ["force=true", "force=false"]


def test_strategy_restarts_become_max_restarts_of_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the command line, an experiment or a profile sets them."""
    config = plain_dict(composed("strategy=ddp", "strategy.restarts=3"))
    task = Cell([], "it", "it", config, RunFolder(tmp_path), facts=replace(FACTS, processes=2)).task([])
    monkeypatch.setattr("gptx.sweep.execute.slurm_job._first_node", lambda: "n0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command = Job(task, (), tmp_path, 2, 0, 0, "", Limits())._command(1)
    assert "--max-restarts=3" in command and command[-1] == "strategy.restarts=0"


def test_sweep_waits_while_slurm_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("sbatch", "scontrol"):
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    (tmp_path / "squeue").write_text(f"#!/bin/sh\ntest -e {tmp_path}/back\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("gptx.sweep.execute.slurm._POLL", 0.0)
    launcher = launcher_of("hydra/launcher=slurm", "hydra.launcher.wait=true")
    assert isinstance(launcher, Slurm)
    launcher.open(Sweep(tmp_path, "it"), OmegaConf.create(), 1)
    launcher.sweep.path.mkdir(parents=True)
    with launcher.sweep.journal() as sweep_journal:
        sweep_journal.write(JobsSubmitted(jobs={"study/run": "7_0"}))
    submitted: list[Task] = []
    monkeypatch.setattr(launcher, "_submit_array", lambda tasks, shape: submitted.extend(tasks))
    task = Task("it", tmp_path / "study" / "run", (), 1, "cpu")
    launcher.submit([task])
    assert launcher.wait() == [] and not submitted
    (tmp_path / "back").touch()
    assert launcher.wait() == [] and submitted == [task]
    monkeypatch.setattr(Sweep, "jobs", lambda sweep: pytest.fail("there is nothing to submit, so nothing to read"))
    assert launcher.wait() == []


def test_code_copy_has_the_users_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a package, and the imported parts of a namespace package, wherever Python is installed."""
    for name in ("one.py", "two/__init__.py", "two/more.py", "own/space/three.py", "own/space/never.py"):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).touch()
    monkeypatch.syspath_prepend(tmp_path / "here")
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    for name in ("one", "two", "own.space.three"):
        importlib.import_module(name)
    code = copy_code(tmp_path / "code", [], own_modules()).path
    for name in ("one", "two", "own", "own.space", "own.space.three"):
        del sys.modules[name]
    copied = {str(path.relative_to(code)) for path in code.rglob("*.py")}
    assert copied >= {"one.py", "two/__init__.py", "two/more.py", "own/space/three.py", "gptx/run.py"}
    assert "own/space/never.py" not in copied
    assert not any(name.startswith(("torch", "pytest", "hydra/")) for name in copied)


def test_state_of_a_job_from_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, says in {"squeue": "7_0|RUNNING|None|n0", "sacct": "7_1|CANCELLED by 1000|n1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = slurm_cluster.job_states(["7_0", "7_1", "7_2"])
    assert found == {"7_0": JobState("RUNNING", "", "n0"), "7_1": JobState("CANCELLED", "", "n1"), "7_2": JobState()}


def test_testcluster_rejects_wrong_arguments_in_one_line(tmp_path: Path) -> None:
    for given, message in {
        ("start", str(tmp_path / "a b")): "allows only letters, digits",
        ("start", str(tmp_path / ("x" * 90))): "at most 80 characters",
        ("start", str(tmp_path), "none"): "NODES=none: expected a number from 1 to 99",
        ("begin", str(tmp_path)): "begin: expected start or stop",
    }.items():
        done = subprocess.run([TESTCLUSTER, *given], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert message in done.stderr or "apt-get install" in done.stderr or "only root" in done.stderr
