"""The Slurm launcher on a real Slurm, which the tests start on this machine (second tier)."""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from command import (
    TESTCLUSTER,
    Gptx,
    equal_sweeps,
    history,
    pausing,
    records,
    same,
    send,
    the_first,
    until,
    words,
    words_of,
)
from conftest import Maker, Trained
from fake_runs import contents, database, uid_of

from gptx.runs import journal

pytestmark = pytest.mark.full

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


def jobs(gptx: Gptx) -> dict[str, str]:
    return {run: job for record in records(gptx.sweep_folder, "submitted") for run, job in record["jobs"].items()}


def status(gptx: Gptx, slurm: Cluster, what: str = "status") -> str:
    done = gptx.run("gptx.sweep", what, **slurm.env)
    assert done.code == 0, done.err
    return done.out


def finished(gptx: Gptx) -> bool:
    folders = gptx.folders()
    return bool(folders) and all(journal.status(folder) == "finished" for folder in folders)


def queue_is_empty(slurm: Cluster, gptx: Gptx) -> Callable[[], bool]:
    """A condition: the queue has no more jobs of this sweep."""
    name = gptx.sweep_folder.name
    return lambda: not slurm.call("squeue", "-h", "-n", name)


def paused(gptx: Gptx) -> bool:
    return (gptx.cwd / "paused-0").exists()


def reports(gptx: Gptx) -> list[dict[str, object]]:
    """What the first node reported about each attempt."""
    return [json.loads(path.read_text()) for path in sorted((gptx.sweep_folder / "slurm").glob("*-0.json"))]


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


def test_slurm_and_local_sweeps_give_the_same_table(make: Maker, slurm: Cluster) -> None:
    local, remote = make("local"), make("slurm")
    grid = ["attention=mha,gqa", "pos=rope,learned"]
    done = local("-m", *grid)
    assert done.code == 0, done.err
    submit(remote, slurm, *grid, *launcher())
    assert until(lambda: finished(remote) and len(remote.folders()) == 4)
    assert until(queue_is_empty(slurm, remote))
    equal_sweeps(remote, local, 4)
    assert "4 variants, 4 runs" in status(remote, slurm, "collect")


def test_each_combination_of_nodes_and_processes_is_one_array(gptx: Gptx, slurm: Cluster) -> None:
    """1 x 1, 1 x 2 and 2 x 2 processes."""
    submit(gptx, slurm, *launcher(per_node=2), "model.dropout=0.1", "strategy=ddp", "strategy.nproc=1,2,4")
    assert len({job.partition("_")[0] for job in jobs(gptx).values()}) == 3
    assert until(queue_is_empty(slurm, gptx))
    assert "3 finished" in status(gptx, slurm)
    assert sorted(records(folder, "start")[0]["processes"] for folder in gptx.folders()) == [1, 2, 4]


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
    (gptx.cwd / "go-after-signal").touch()
    assert until(queue_is_empty(slurm, gptx))
    assert journal.status(gptx.folder) == "interrupted"
    shown = status(gptx, slurm)
    assert "1 stopped" in shown
    submit(gptx, slurm, *words("single"), *launcher())
    assert until(lambda: finished(gptx))
    assert [record["step"] >= 17 for record in records(gptx.folder, "resume")] == [True]
    same(gptx.folder, reference("single"))


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
    assert re.search(r"killed \(SIGKILL\), .*out of memory", err)  # certain only if the system killed a process
    assert "its job ended without an error message on 127." in err and "(Slurm: FAILED)" in err
    assert "SIGSEGV" in err
    shown = status(gptx, slurm)
    assert "3 failed" in shown and "without an error message" in shown
    assert gptx.run("gptx.sweep", "collect", **slurm.env).code == 1


def test_run_that_exits_is_retried_within_its_job(gptx: Gptx, slurm: Cluster, reference: Callable[..., Path]) -> None:
    """The process exits in its 120th step; the second one resumes and has fewer steps left."""
    submit(gptx, slurm, *words("single"), *launcher(), "sweep.retry=1", EXIT_AT="120")
    assert until(queue_is_empty(slurm, gptx))
    same(gptx.folder, reference("single"))
    assert len(records(gptx.folder, "resume")) == 1


def test_time_limit_of_a_sweep_and_cancelled_pending_job(gptx: Gptx, slurm: Cluster) -> None:
    """One run hangs; the other job is cancelled before it starts, which is not a failure."""
    bounds = ["sweep.timeout=0.5", "sweep.grace=1"]
    submit(gptx, slurm, *words("single"), *launcher(array_parallelism=1), *bounds, "seed=0,1", **pausing(gptx, 3))
    # Of a job that is cancelled before the first one of its array has started, Slurm keeps no record.
    assert until(lambda: slurm.call("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i", "-n", gptx.sweep_folder.name))
    slurm.call("scancel", list(jobs(gptx).values())[1])
    assert until(queue_is_empty(slurm, gptx))
    shown = status(gptx, slurm)
    assert "1 failed, 1 stopped" in shown and "before it started" in shown
    assert "took longer than sweep.timeout=0.5 minutes" in shown


def test_preempted_job_is_requeued_and_loses_no_step(
    gptx: Gptx, slurm: Cluster, reference: Callable[..., Path]
) -> None:
    submit(gptx, slurm, *words("ddp"), *launcher(), **pausing(gptx, 17))
    assert until(lambda: paused(gptx) and (gptx.cwd / "paused-1").exists())
    slurm.call("sbatch", "-p", "high", "-N2", "--exclusive", "--output=/dev/null", "--wrap=true")
    assert until(lambda: slurm.job(gptx)["PreemptTime"] != "None")
    (gptx.cwd / "go-after-signal").touch()
    assert until(lambda: records(gptx.folder, "resume"))
    (gptx.cwd / "go").touch()  # the requeued run pauses again
    assert until(lambda: finished(gptx))
    assert until(queue_is_empty(slurm, gptx))
    assert slurm.job(gptx)["Restarts"] == "1"
    assert [record["step"] >= 17 for record in records(gptx.folder, "resume")] == [True]  # no step was lost
    same(gptx.folder, reference("ddp"))


def test_job_at_its_time_limit_is_requeued(gptx: Gptx, slurm: Cluster, reference: Callable[..., Path]) -> None:
    """A minute is Slurm's shortest limit, and Slurm checks limits every half minute."""
    limit = {"minutes": 1, "signal_delay": 30}
    submit(gptx, slurm, *words("single"), *launcher(requeues=0, **limit), **pausing(gptx, 60))
    (gptx.cwd / "go-after-signal").touch()
    assert until(queue_is_empty(slurm, gptx))
    assert "reached its time limit after hydra.launcher.requeues=0 requeues" in status(gptx, slurm)
    submit(gptx, slurm, *words("single"), *launcher(requeues=20, **limit), **pausing(gptx, 100))
    (gptx.cwd / "go-after-signal").touch()
    assert until(queue_is_empty(slurm, gptx))
    assert any(report.get("requeued_at_limit") for report in reports(gptx))
    assert len(records(gptx.folder, "resume")) >= 2
    same(gptx.folder, reference("single"))


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
