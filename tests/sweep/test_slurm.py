"""The Slurm launcher: on a real Slurm on this machine (second tier), and without one."""

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fake_runs
import psutil
import pytest
from command import ROOT, Gptx, equal_sweeps, history, pausing, records, same, send, the_first, until, words, words_of
from conftest import Maker, Trained
from fake_cells import FACTS
from fake_runs import contents, database, uid_of
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from in_process import run_here
from omegaconf import OmegaConf

from gptx import compose
from gptx.config.overrides import conf_dir
from gptx.errors import ConfigError
from gptx.hardware.device import Machine
from gptx.runs import journal
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
from gptx.sweep.state.records import EndKind, JobsSubmitted
from gptx.training.preflight import preflight

TESTCLUSTER = str(ROOT / "launch" / "testcluster")
LAUNCHER = {"device": "cpu", "per_node": 1, "cpus": 1, "mem_gb": 1, "requeues": 3}


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Cluster"]:
    """A cluster with two nodes, for all tests."""
    folder = tmp_path_factory.mktemp("slurm")
    done = subprocess.run([TESTCLUSTER, "start", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    yield Cluster(folder, done.stdout)
    subprocess.run([TESTCLUSTER, "stop", str(folder)], check=True)


@pytest.fixture
def slurm(started: "Cluster") -> Iterator["Cluster"]:
    """The cluster; its jobs are cancelled after the test."""
    yield started
    started.call("scancel", "--me")


class Cluster:
    def __init__(self, folder: Path, exports: str) -> None:
        self.folder = folder
        self.env = dict(word.split("=", 1) for word in shlex.split(exports) if "=" in word)

    def call(self, *command: str) -> str:
        env = os.environ | self.env
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()

    def job(self, gptx: Gptx) -> dict[str, str]:
        """What Slurm shows about the only job of the only sweep."""
        [job] = jobs(gptx).values()
        return dict(
            word.split("=", 1) for word in self.call("scontrol", "show", "job", "-o", job).split() if "=" in word
        )

    def lose(self, node: str, gptx: Gptx) -> None:
        """Kill the daemon of a node and all processes of its job at once, as a power failure does."""
        daemons = [
            p for p in psutil.process_iter() if p.pid == int((self.folder / f"run/slurmd.{node}.pid").read_text())
        ]
        [job] = jobs(gptx).values()
        number = self.job(gptx)["JobId"]
        steps = [
            p
            for p in psutil.process_iter(["cmdline"])
            if f"slurmstepd: [{number}." in " ".join(p.info["cmdline"] or [])
        ]
        assert daemons and steps, job
        send((*daemons, *steps, *gptx.processes()), signal.SIGKILL)
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    def repair(self, node: str) -> None:
        subprocess.run(["slurmd", "-N", node], env=os.environ | self.env | {"PATH": f"{os.environ['PATH']}:/usr/sbin"})
        assert until(lambda: self.call("sinfo", "-h", "-n", node, "-p", "main", "-o", "%t") == "idle")


def launcher(**keys: object) -> list[str]:
    return ["hydra/launcher=slurm", *(f"hydra.launcher.{key}={value}" for key, value in (LAUNCHER | keys).items())]


def submit(gptx: Gptx, slurm: Cluster, *overrides: str, **env: str) -> None:
    done = gptx("-m", *overrides, **slurm.env, **env)
    assert done.code == 0, done.err
    assert "gptx sweep status" in done.out


def plan(gptx: Gptx) -> Path:
    """The folder of the only sweep."""
    [found] = (gptx.outputs / ".sweeps").iterdir()
    return found


def jobs(gptx: Gptx) -> dict[str, str]:
    return {run: job for record in records(plan(gptx), "submitted") for run, job in record["jobs"].items()}


def status(gptx: Gptx, slurm: Cluster, what: str = "status") -> str:
    done = gptx.run("gptx.sweep", what, **slurm.env)
    assert done.code == 0, done.err
    return done.out


def finished(gptx: Gptx) -> bool:
    folders = gptx.folders()
    return bool(folders) and all(journal.status(folder) == "finished" for folder in folders)


def queue_is_empty(slurm: Cluster, gptx: Gptx) -> Callable[[], bool]:
    """A condition: the queue has no more jobs of this sweep."""
    name = plan(gptx).name
    return lambda: not slurm.call("squeue", "-h", "-n", name)


def paused(gptx: Gptx) -> bool:
    return (gptx.cwd / "paused-0").exists()


def reports(gptx: Gptx) -> list[dict[str, object]]:
    """What the first node reported about each attempt."""
    return [json.loads(path.read_text()) for path in sorted((plan(gptx) / "slurm").glob("*-0.json"))]


# ------------------------------------------------------------------------------------------- runs


@pytest.mark.full
def test_jobs_on_one_and_two_nodes_without_mlflow(gptx: Gptx, slurm: Cluster, trained: Trained, tmp_path: Path) -> None:
    """The nodes have no MLflow; the runs are written to it by the machine that has it."""
    (tmp_path / "mlflow.py").write_text("raise ImportError('there is no mlflow on a compute node')")
    without = f"hydra.launcher.setup=['export PYTHONPATH={tmp_path}:$PYTHONPATH']"
    grid = [*launcher(), without, "strategy=single,ddp", "tracking=mlflow"]
    submit(gptx, slurm, *grid)
    assert until(queue_is_empty(slurm, gptx))
    assert "2 finished" in status(gptx, slurm)
    [ddp, single] = gptx.folders()
    same(single, trained.folder)
    assert single.name == trained.folder.name
    assert records(ddp, "start")[0]["processes"] == 2
    assert history(ddp) == pytest.approx(history(single), rel=1e-4)
    assert "mha" in status(gptx, slurm, "collect")
    assert contents(database(gptx.outputs), uid_of(single))["status"] == "FINISHED"


@pytest.mark.full
def test_slurm_and_local_sweeps_give_the_same_table(make: Maker, slurm: Cluster) -> None:
    here, there = make("here"), make("there")
    grid = ["attention=mha,gqa", "pos=rope,learned"]
    done = here("-m", *grid)
    assert done.code == 0, done.err
    submit(there, slurm, *grid, *launcher())
    assert until(lambda: finished(there) and len(there.folders()) == 4)
    assert until(queue_is_empty(slurm, there))
    equal_sweeps(there, here, 4)
    assert "4 variants, 4 runs" in status(there, slurm, "collect")


@pytest.mark.full
def test_each_combination_of_nodes_and_processes_is_one_array(gptx: Gptx, slurm: Cluster) -> None:
    """1 x 1, 1 x 2 and 2 x 2 processes."""
    submit(gptx, slurm, *launcher(per_node=2), "model.dropout=0.1", "strategy=ddp", "strategy.nproc=1,2,4")
    assert len({job.partition("_")[0] for job in jobs(gptx).values()}) == 3
    assert until(queue_is_empty(slurm, gptx))
    assert "3 finished" in status(gptx, slurm)
    assert sorted(records(folder, "start")[0]["processes"] for folder in gptx.folders()) == [1, 2, 4]


@pytest.mark.full
def test_cancelled_job_is_resumed_by_the_same_command(
    gptx: Gptx, slurm: Cluster, reference: Callable[..., Path]
) -> None:
    submit(gptx, slurm, *words("single"), *launcher(), **pausing(gptx, 17))
    assert until(lambda: paused(gptx))
    shown = status(gptx, slurm)
    assert "1 running" in shown and "step 16 of 200" in shown
    before = jobs(gptx)
    submit(gptx, slurm, *words("single"), *launcher())
    assert jobs(gptx) == before  # the job is in the queue already
    assert list(gptx.outputs.glob(".sweeps/*/code/*/mine.py"))  # the copy of the kernel's module
    status(gptx, slurm, "cancel")
    (gptx.cwd / "go-when-told").touch()
    assert until(queue_is_empty(slurm, gptx))
    assert journal.status(gptx.folder) == "interrupted"
    shown = status(gptx, slurm)
    assert "1 stopped" in shown
    submit(gptx, slurm, *words("single"), *launcher())
    assert until(lambda: finished(gptx))
    assert [record["step"] >= 17 for record in records(gptx.folder, "resume")] == [True]
    same(gptx.folder, reference("single"))


@pytest.mark.full
def test_killed_runs_and_killed_jobs_are_reported(gptx: Gptx, slurm: Cluster) -> None:
    """The command waits. A run is killed, a job is killed with its run, and a run crashes."""
    grid = [*words("single"), *launcher(wait="true"), "seed=0,1,2"]
    sweep = gptx.start("-m", *grid, **slurm.env, **pausing(gptx, 12))

    def is_paused(seed: int) -> bool:
        runs = [folder for folder in gptx.folders() if folder.name.rpartition("-")[0].endswith(f"s{seed}")]
        return bool(runs) and any(record["step"] == 11 for record in records(runs[0], "metrics"))

    assert until(lambda: all(map(is_paused, range(3))), sweep), sweep.communicate()
    runs = {word: p for p in gptx.processes() for word in words_of(p) if "-m" not in words_of(p)[3:]}
    task = runs["seed=1"].parent()
    assert task is not None and "submitit.core._submit" in task.cmdline()
    runs["seed=0"].kill()
    send((task, *task.children(recursive=True)), signal.SIGKILL)
    runs["seed=2"].send_signal(signal.SIGSEGV)
    _, err = sweep.communicate()
    assert sweep.returncode == 1
    assert re.search(r"killed \(SIGKILL\): .*out of memory", err)  # certain only if the system killed a process
    assert "its job ended without an error message on 127." in err and "(Slurm: FAILED)" in err
    assert "SIGSEGV" in err
    shown = status(gptx, slurm)
    assert "3 failed" in shown and "without an error message" in shown
    assert gptx.run("gptx.sweep", "collect", **slurm.env).code == 1


@pytest.mark.full
def test_run_that_exits_is_retried_within_its_job(gptx: Gptx, slurm: Cluster, reference: Callable[..., Path]) -> None:
    """The process exits in its 120th step; the second one resumes and has fewer steps left."""
    submit(gptx, slurm, *words("single"), *launcher(), "sweep.retry=1", EXIT_AT="120")
    assert until(queue_is_empty(slurm, gptx))
    same(gptx.folder, reference("single"))
    assert len(records(gptx.folder, "resume")) == 1


@pytest.mark.full
def test_time_limit_of_a_sweep_and_cancelled_pending_job(gptx: Gptx, slurm: Cluster) -> None:
    """One run hangs; the other job is cancelled before it starts, which is not a failure."""
    bounds = ["sweep.timeout=0.5", "sweep.grace=1"]
    submit(gptx, slurm, *words("single"), *launcher(array_parallelism=1), *bounds, "seed=0,1", **pausing(gptx, 3))
    assert until(lambda: slurm.call("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i", "-n", plan(gptx).name))
    slurm.call("scancel", list(jobs(gptx).values())[1])
    assert until(queue_is_empty(slurm, gptx))
    shown = status(gptx, slurm)
    assert "1 failed, 1 stopped" in shown and "before it started" in shown
    assert "took longer than sweep.timeout=0.5 minutes" in shown


@pytest.mark.full
def test_preempted_job_is_requeued_and_loses_no_step(
    gptx: Gptx, slurm: Cluster, reference: Callable[..., Path]
) -> None:
    submit(gptx, slurm, *words("ddp"), *launcher(), **pausing(gptx, 17))
    assert until(lambda: paused(gptx) and (gptx.cwd / "paused-1").exists())
    slurm.call("sbatch", "-p", "high", "-N2", "--exclusive", "--output=/dev/null", "--wrap=true")
    assert until(lambda: slurm.job(gptx)["PreemptTime"] != "None")
    (gptx.cwd / "go-when-told").touch()
    assert until(lambda: records(gptx.folder, "resume"))
    (gptx.cwd / "go").touch()  # the requeued run pauses again
    assert until(lambda: finished(gptx))
    assert until(queue_is_empty(slurm, gptx))
    assert slurm.job(gptx)["Restarts"] == "1"
    assert [record["step"] >= 17 for record in records(gptx.folder, "resume")] == [True]  # no step was lost
    same(gptx.folder, reference("ddp"))


@pytest.mark.full
def test_job_at_its_time_limit_is_requeued(gptx: Gptx, slurm: Cluster, reference: Callable[..., Path]) -> None:
    """A minute is Slurm's shortest limit, and Slurm checks limits every half minute."""
    limit = {"minutes": 1, "signal_delay": 30}
    submit(gptx, slurm, *words("single"), *launcher(requeues=0, **limit), **pausing(gptx, 60))
    (gptx.cwd / "go-when-told").touch()
    assert until(queue_is_empty(slurm, gptx))
    assert "reached its time limit after hydra.launcher.requeues=0 requeues" in status(gptx, slurm)
    submit(gptx, slurm, *words("single"), *launcher(requeues=20, **limit), **pausing(gptx, 100))
    (gptx.cwd / "go-when-told").touch()
    assert until(queue_is_empty(slurm, gptx))
    assert any(report.get("requeued_at_limit") for report in reports(gptx))
    assert len(records(gptx.folder, "resume")) >= 2
    same(gptx.folder, reference("single"))


@pytest.mark.full
def test_run_on_a_failed_node_resumes_on_another(gptx: Gptx, slurm: Cluster, reference: Callable[..., Path]) -> None:
    submit(gptx, slurm, *words("single"), *launcher(), **pausing(gptx, 17))
    assert until(lambda: paused(gptx))
    the_first(gptx)
    node = slurm.job(gptx)["NodeList"]
    slurm.lose(node, gptx)
    (gptx.cwd / "go").touch()
    assert until(lambda: finished(gptx))
    assert until(queue_is_empty(slurm, gptx))
    assert slurm.job(gptx)["NodeList"] != node
    slurm.repair(node)
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]
    same(gptx.folder, reference("single"))


# ----------------------------------------------------------------------------------- without Slurm


def test_run_is_checked_for_the_device_of_the_nodes(trained: Trained) -> None:
    node = Machine("cuda", per_node=4, cores=2)
    cfg = compose([*trained.gptx.tiny, "precision=auto", "device=auto", "strategy=ddp"])
    facts = preflight(cfg, node).facts
    assert (facts.processes, facts.hardware.device, facts.dtype) == (4, "cuda", "bfloat16")
    cfg = compose([*trained.gptx.tiny, "device=cuda", "strategy=ddp", "strategy.nproc=8"])
    assert preflight(cfg, node).facts.processes == 8  # on two nodes
    with pytest.raises(
        ConfigError, match=r"device=mps is not available: with hydra\.launcher\.device=cuda a node has cuda and cpu"
    ):
        preflight(compose([*trained.gptx.tiny, "device=mps"]), node)
    with pytest.raises(ConfigError, match="device=mps is not available: this machine has"):
        preflight(compose([*trained.gptx.tiny, "device=mps"]))


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
def test_misspelled_launcher_or_key_is_one_line(gptx: Gptx, overrides: list[str], message: str) -> None:
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
        return End(task, EndKind.FAILED, reason)

    training = NodeReport("n0")
    assert end("PENDING") is None
    assert end("CANCELLED") == End(task, EndKind.CANCELLED, "cancelled")
    assert end("RUNNING", training) is None
    assert end("COMPLETING", training) is None  # it may be about to be queued again
    assert end("NODE_FAIL", training) == failed("its node failed on n0")
    assert end("OUT_OF_MEMORY", training) == failed("out of memory on n0: Slurm killed it")
    assert "hydra.launcher.signal_delay" in end("TIMEOUT", training).reason  # type: ignore[union-attr]
    assert "without an error message on n0 (Slurm: FAILED)" in end("FAILED", training).reason  # type: ignore[union-attr]
    rejected = NodeReport("n0", EndKind.REJECTED, "a key is wrong")
    assert end("COMPLETED", rejected) == End(task, EndKind.REJECTED, "a key is wrong")
    peer, limit = NodeReport("n0", EndKind.FAILED, "lost a peer"), NodeReport("n1", EndKind.LIMIT_EXCEEDED, "used 9 GB")
    assert end("COMPLETED", peer, limit) == End(task, EndKind.LIMIT_EXCEEDED, "used 9 GB")


def test_requeued_job_does_not_force_again(tmp_path: Path) -> None:
    """A job with force=true that is requeued after it has started."""
    run = fake_runs.make_run(tmp_path, uid="a" * 32)
    task = Task("it", run, (), 1, "cpu")
    job = Job(task, ("force=true",), tmp_path, 1, 0, 0, replaces="a" * 32, limits=Limits())
    assert job.run_overrides() == ["force=true"]
    assert replace(job, replaces="").run_overrides() == ["force=true", "force=false"]


def test_strategy_restarts_become_max_restarts_of_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the command line, an experiment or a profile sets them."""
    cfg = compose(["strategy=ddp", "strategy.restarts=3"])
    task = Cell([], "it", "it", cfg, RunFolder(tmp_path), facts=replace(FACTS, processes=2)).task([])
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
