"""Sweeps on this machine: checked whole, one process a run, nothing lost and nothing done twice."""

import json
import random
import signal
import subprocess
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from command import DEADLINE, OWN_CONF, Gptx, Terminal, equal_sweeps, history, once, records, same, send, until
from conftest import Maker
from hydra import compose as hydra_compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from gptx.config import compose
from gptx.errors import ConfigError
from gptx.hardware.cpu import cores
from gptx.runs import checkpoint_files, journal
from gptx.sweep.execute.isolated import call_each
from gptx.sweep.execute.launcher import End, Task, make
from gptx.sweep.execute.prewarm import start_process
from gptx.sweep.plan.cells import compose_cells
from gptx.sweep.state.dashboard import Dashboard
from gptx.sweep.state.records import EndKind
from gptx.sweep.sweep_overrides import check_given_once, single_values

GRID = ["attention=mha,gqa", "pos=rope,learned,none"]


def uids(gptx: Gptx) -> dict[str, str]:
    """Of all runs that have begun."""
    return {folder.name: start["uid"] for folder in gptx.folders() for start in records(folder, "start")}


def sweep(gptx: Gptx, *words: str) -> list[str]:
    """The words of a sweep of tiny runs, each key once."""
    return ["-m", *OWN_CONF, *once(*gptx.tiny, *words)]


def told(text: str) -> dict[str, str]:
    """{title: reason} of the list of failures."""
    lines = text[text.index("failed:\n") :].splitlines()[1:]
    return {title.strip(): why.strip() for title, why in zip(lines[::2], lines[1::2], strict=True)}


def book(gptx: Gptx, kind: str) -> list[dict[str, Any]]:
    """Of the only sweep there is."""
    [folder] = (gptx.outputs / ".sweeps").iterdir()
    return records(folder, kind)


# ---------------------------------------------------------------------------------- before anything is started


def test_nothing_is_started_while_a_refusal_is_unexplained(gptx: Gptx) -> None:
    done = gptx.run("gptx.run", *sweep(gptx, "attention=mha,gqa", "model.n_head=4,3"))
    assert done.code == 2
    assert done.out.count("model.d_model=16 is not divisible by model.n_head=3") >= 1
    assert "2 of 4 combinations are rejected" in done.err.splitlines()[-1]
    assert "sweep.skip_invalid=true" in done.err.splitlines()[-1]
    assert gptx.folders() == []
    rest = gptx.run("gptx.run", *sweep(gptx, "attention=mha,gqa", "model.n_head=4,3", "sweep.skip_invalid=true"))
    assert rest.code == 0, rest.err
    assert len(gptx.folders()) == 2
    assert [record["title"] for record in book(gptx, "refused")] == [
        "model.n_head=3 attention=mha",
        "model.n_head=3 attention=gqa",
    ]


def test_a_dry_run_starts_nothing_and_leaves_nothing(gptx: Gptx) -> None:
    done = gptx.run("gptx.run", *sweep(gptx, *GRID, "seed=0,1", "dry_run=true"))
    assert done.code == 0, done.err
    assert "12 combinations" in done.out
    assert not gptx.outputs.exists()


def test_a_text_is_tokenised_once_and_one_that_cannot_be_is_a_refusal(gptx: Gptx) -> None:
    for name, data in {"good.txt": b"It is so. " * 2000, "bad.txt": b"\xff\xfe\xfd" * 9000}.items():
        (gptx.cwd / name).write_bytes(data)
    words = sweep(gptx, "data.path=good.txt,bad.txt", "pos=rope,none", "paths.data=fresh", "dry_run=true")
    done = gptx.run("gptx.run", *words)
    assert done.code == 2, done.err
    assert done.err.splitlines() == ["tokenising text with byte"] * 3  # one of them, and twice in vain
    assert "2 combinations: bad.txt" in done.out and "2 to run" in done.out
    assert gptx.run("gptx.run", *words).err.splitlines() == ["tokenising text with byte"] * 2


def test_a_schema_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[list[str]] = []
    monkeypatch.setattr(compose, "hydra_compose", lambda *a, **k: composed.append(a[1]) or hydra_compose(*a, **k))  # type: ignore[func-returns-value]
    found = compose_cells([[f"attention={a}", f"seed={s}"] for a in ("mha", "gqa") for s in range(3)])
    assert len(composed) == 6 + 2
    assert [(cell.cfg.variant.attention, cell.cfg.seed) for cell in found[2:4]] == [("mha", 2), ("gqa", 0)]


def test_what_cannot_be_composed_or_built_is_one_refusal(gptx: Gptx) -> None:
    words = sweep(gptx, "attention=mha,scaled", "attention.gain=1,-1,-2,-3")
    done = gptx.run("gptx.run", *words)
    assert done.code == 2 and gptx.folders() == []
    assert "ArithmeticError: a gain below nothing" in done.out and "SystemExit: 0" in done.out
    assert "its code crashed the process (SIGSEGV)" in done.out
    assert "4 combinations: unknown key 'attention.gain'" in done.out
    done = gptx.run("gptx.run", *words, "match=params", "dry_run=true")
    assert "ArithmeticError: a gain below nothing" in done.out and "(SIGSEGV)" in done.out
    done = gptx.run("gptx.run", *words, "sweep.skip_invalid=true")
    assert done.code == 0, done.err
    assert len(gptx.folders()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
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
def test_a_mistake_is_one_line(gptx: Gptx, words: list[str], expected: str) -> None:
    done = gptx.run("gptx.run", *sweep(gptx, *words))
    assert done.code == 2
    assert done.err.count("\n") == 1 and expected in done.err, done.err
    assert not gptx.outputs.exists()


def parsed(*words: str) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=0,1", "seed=2,3"], "seed=0,1 and seed=2,3: only the last would count; give seed once"),
        (["+seed=4", "seed=range(3)"], "+seed=4 and seed=range(3)"),
        (["paths.outputs=a,b"], "paths.outputs=a,b: paths.outputs is an option of the sweep as a whole"),
        (["optim.lr=interval(1e-4,1e-2)"], "optim.lr=interval(1e-4,1e-2) needs hydra/sweeper=optuna"),
        (["attention=mha,gqa", "seed=range(3,1)"], "seed=range(3,1) has no values"),
    ],
)
def test_a_word_that_no_grid_can_mean(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_given_once(parsed(*words))
        list(map(single_values, parsed(*words)))
    assert str(refused.value).startswith(expected) and "\n" not in str(refused.value)


def test_one_value_may_be_given_twice() -> None:
    check_given_once(parsed("seed=0", "pos=rope,none", "seed=1"))


def test_a_launcher_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"_target_=pathlib.Path is not a gptx\.sweep\.execute\.launcher\.Launcher"):
        make(OmegaConf.create({"_target_": "pathlib.Path"}))


def test_a_check_whose_sweep_is_killed_ends_quietly() -> None:
    told, telling = Pipe(duplex=False)
    told.close()
    child = start_process(call_each, int, ["1"], telling, daemon=True)
    telling.close()
    child.join()
    assert child.exitcode == 0


def test_what_is_stopped_has_not_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard = Dashboard(2, 0, {}, 0.0)
    ends = {"a": (EndKind.STOPPED, "checkpoint at step 3"), "b": (EndKind.FAILED, "RuntimeError: it broke")}
    for title, (kind, why) in ends.items():
        dashboard.run_ended(End(Task(title, tmp_path, (), 1, "cpu"), kind, why), retried=False)
    assert capsys.readouterr().err.splitlines() == [
        "[0/2] a: stopped (checkpoint at step 3)",
        "[1/2] b: failed: RuntimeError: it broke",
    ]


WITHOUT = ["sweep.jobs=2", "sweep.lr=[1e-3]", "match=params", "hydra/launcher=slurm", "hydra.sweeper.n_trials=3"]


@pytest.mark.parametrize("word", WITHOUT)
def test_what_is_about_sweeps_is_refused_without_one(gptx: Gptx, word: str) -> None:
    more = ["hydra/sweeper=optuna"] * word.startswith("hydra.sweeper")
    done = gptx(word, *more)
    assert done.code == 2
    assert f"{word} is an option of a sweep: give -m" in done.err and done.err.count("\n") == 1
    assert not gptx.outputs.exists()


def test_one_run_of_a_study_says_so_and_may_be_tried_out_for_a_cluster(gptx: Gptx) -> None:
    slurm = ["hydra/launcher=slurm", "hydra.launcher.device=cpu", "dry_run=true"]
    done = gptx("experiment=smoke/pos_ablation", "pos=none", *slurm)
    assert done.code == 0 and "1 combination: 1 to run" in done.out
    assert done.err == "gptx: this is one run, without the study's sweep of seed: -m or gptx sweep runs the study\n"
    (gptx.cwd / "own" / "experiment").mkdir(parents=True)
    (gptx.cwd / "own" / "experiment" / "halves.yaml").write_text("# @package _global_\nsweep: {halving: true}\n")
    done = gptx("--config-dir=own", "experiment=halves", "dry_run=true")
    assert done.code == 0 and "1 combination: 1 to run" in done.out
    assert done.err == "gptx: this is one run, without the study's sweep.halving: -m or gptx sweep runs the study\n"


# ------------------------------------------------------------------------------------------------- runs


def test_a_grid_runs_whole_and_again_shows_what_there_is(gptx: Gptx) -> None:
    done = gptx.run("gptx.run", *sweep(gptx, *GRID))
    assert done.code == 0, done.err
    assert sorted(journal.status(folder) for folder in gptx.folders()) == ["finished"] * 6
    assert "6 variants, 6 runs" in done.out
    assert "[6/6]" in done.err
    before = uids(gptx)
    for folder in gptx.folders():
        assert "finished: val loss" in (folder / "logs" / "run.log").read_text()
    again = gptx.run("gptx.run", *sweep(gptx, *GRID))
    assert again.code == 0 and "6 variants, 6 runs" in again.out
    assert uids(gptx) == before


def test_a_run_of_a_sweep_is_the_run_of_the_plain_command(gptx: Gptx) -> None:
    assert gptx.run("gptx.run", *sweep(gptx, "attention=mqa,gqa")).code == 0
    plain = gptx("attention=gqa")
    assert plain.code == 0 and "finished already" in plain.out
    [plan] = (gptx.outputs / ".sweeps").glob("*/plan.json")
    for cell in json.loads(plan.read_text())["cells"]:
        done = gptx.run("gptx.run", *cell["overrides"])
        assert "finished already" in done.out and cell["run"] in done.out


def test_repeated_values_are_one_run(gptx: Gptx) -> None:
    done = gptx.run("gptx.run", *sweep(gptx, "seed=0,0,1"))
    assert done.code == 0, done.err
    assert len(gptx.folders()) == 2 and "2 combinations" in done.out


def test_a_study_brings_its_own_grid_and_the_command_line_goes_before_it(gptx: Gptx) -> None:
    own = gptx.cwd / "own" / "experiment"
    own.mkdir(parents=True)
    grid = 'hydra: {sweeper: {params: {attention: "mha,gqa", seed: "0,1"}}}'
    own.joinpath("few.yaml").write_text(f"# @package _global_\nstudy: few\nabout: {{question: 'Which?'}}\n{grid}\n")
    done = gptx.run("gptx.run", "-m", "--config-dir", str(own.parent), *gptx.tiny, "experiment=few", "seed=3")
    assert done.code == 0, done.err
    assert "Which?" in done.out
    assert sorted(folder.name.split("-")[0] for folder in gptx.folders()) == [
        "gqa·rope·full·single·s3",
        "mha·rope·full·single·s3",
    ]


def test_so_many_run_at_once_and_share_the_cores(gptx: Gptx) -> None:
    pause = {"PAUSE_AT": "15", "PAUSE_IN": str(gptx.cwd)}
    words = [word for word in sweep(gptx, "kernel=fragile", "seed=0,1,2", "sweep.jobs=2") if "threads" not in word]
    running = gptx.popen("gptx.run", *words, **pause)
    at_work = lambda: [f for f in gptx.folders() if records(f, "metrics")]  # noqa: E731
    assert until(lambda: len(at_work()) == 2, running)
    assert len(gptx.folders()) == 2
    (gptx.cwd / "go").touch()
    _, err = running.communicate(timeout=DEADLINE)
    assert running.returncode == 0, err
    assert len(gptx.folders()) == 3
    threads = {records(folder, "start")[0]["config"]["runtime"]["threads"] for folder in gptx.folders()}
    assert threads == {max(1, cores() // 2)}


def test_every_way_to_fail_is_one_failure_with_its_reason(gptx: Gptx) -> None:
    """Impossible cells, a crash, an exit, a segmentation fault, a kill, and too much memory."""
    ways = "none,raise,exit,segfault,kill,memory"
    bounds = ["sweep.grace=1", "sweep.memory=1.5", "sweep.skip_invalid=true"]
    done = gptx.run("gptx.run", *sweep(gptx, "kernel=troubled", f"kernel.how={ways}", "model.n_head=4,3", *bounds))
    assert done.code == 1
    why = told(done.err)
    at = "model.n_head={1} kernel.how={0}".format
    assert len(why) == 5 and at("none", 4) not in why
    assert why[at("raise", 4)] == "RuntimeError: the kernel broke"
    assert why[at("exit", 4)] == "its process ended without an error message (exit code 7)"
    assert why[at("segfault", 4)] == "its process ended without an error message (SIGSEGV)"
    assert "SIGKILL" in why[at("kill", 4)] and "out of memory" in why[at("kill", 4)]
    assert "more than sweep.memory=1.5" in why[at("memory", 4)]
    assert {record["title"] for record in book(gptx, "refused")} == {at(way, 3) for way in ways.split(",")}
    assert [record["title"] for record in book(gptx, "end") if not record["reason"]] == [at("none", 4)]
    assert "1 variant, 1 run" in done.out


def test_a_run_that_hangs_is_ended(gptx: Gptx) -> None:
    """A sweep of its own: its bound would hold for all others, too."""
    done = gptx.run(
        "gptx.run", *sweep(gptx, "kernel=troubled", "kernel.how=hang", "sweep.timeout=0.2", "sweep.grace=1")
    )
    assert done.code == 1
    [why] = told(done.err).values()
    saved = checkpoint_files.newest(gptx.folder / "checkpoints")
    progress = f"checkpoint at step {saved}" if saved else "no checkpoint yet"
    assert why == f"took longer than sweep.timeout=0.2 minutes ({progress})"


def test_a_failure_is_tried_again_as_often_as_asked(gptx: Gptx) -> None:
    words = sweep(gptx, "kernel=troubled", "kernel.how=once,raise", "sweep.retry=1")
    done = gptx.run("gptx.run", *words, PAUSE_IN=str(gptx.cwd))
    assert done.code == 1
    assert list(told(done.err)) == ["kernel.how=raise"]
    ends = [(record["title"], record["again"]) for record in book(gptx, "end") if record["reason"]]
    assert sorted(ends) == [("kernel.how=once", True), ("kernel.how=raise", False), ("kernel.how=raise", True)]


# ------------------------------------------------------------------------------------- stopped, killed, doubled


def said(process: "subprocess.Popen[str]", words: str) -> None:
    """Read what it says until these words."""
    assert process.stderr is not None
    heard = ""
    while words not in heard:
        line = process.stderr.readline()
        assert line, heard
        heard += line


def test_ctrl_c_leaves_checkpoints_and_nothing_running(gptx: Gptx) -> None:
    pause = {"PAUSE_AT": "15", "PAUSE_IN": str(gptx.cwd)}
    running = gptx.popen("gptx.run", *sweep(gptx, "kernel=fragile", "seed=0,1", "sweep.jobs=1"), **pause)
    assert until(lambda: (gptx.cwd / "paused-0").exists(), running), running.communicate()
    running.send_signal(signal.SIGINT)
    said(running, "stopping: ")
    (gptx.cwd / "go-when-told").touch()
    _, err = running.communicate(timeout=DEADLINE)
    assert running.returncode == 130, err
    assert "Traceback" not in err and "[0/2] seed=0: stopped (checkpoint at step 15)" in err
    assert gptx.orphans() == []
    assert journal.status(gptx.folder) == "interrupted"  # and the second one was not begun


def test_ctrl_c_before_anything_runs_is_one_line(gptx: Gptx) -> None:
    terminal = Terminal(gptx, "gptx.run", *sweep(gptx, *GRID, "seed=0,1"))
    assert terminal.until(lambda: gptx.workers("forkserver")), terminal.shown
    terminal.press(b"\x03")
    assert terminal.end() == 130, terminal.shown
    assert [line for line in terminal.shown.splitlines() if line] == [
        "^Cgptx: interrupted; the same command resumes from the last checkpoint"
    ]
    assert gptx.orphans() == [] and gptx.folders() == []


def test_runs_end_with_their_sweep_and_go_on_with_it(gptx: Gptx) -> None:
    """Killed with -9 alone, it leaves runs that write a checkpoint and end; the same command waits for that."""
    pause = {"PAUSE_AT": "15", "PAUSE_IN": str(gptx.cwd)}
    words = sweep(gptx, "kernel=fragile", "seed=0,1", "sweep.jobs=1")
    first = gptx.popen("gptx.run", *words, **pause)
    assert until(lambda: (gptx.cwd / "paused-0").exists(), first), first.communicate()
    first.kill()
    first.wait(DEADLINE)
    second = gptx.popen("gptx.run", *words)
    said(second, "waiting until it ends")
    (gptx.cwd / "go-when-told").touch()
    _, err = second.communicate(timeout=DEADLINE)
    assert second.returncode == 0, err
    assert sorted(journal.status(folder) for folder in gptx.folders()) == ["finished", "finished"]
    [gone_on] = [folder for folder in gptx.folders() if records(folder, "resume")]
    assert records(gone_on, "resume")[0]["step"] == 15


def test_force_is_for_what_lay_there_before(gptx: Gptx) -> None:
    """Every run afresh, once: a failure is tried again from its checkpoint, and an old result is nobody's success."""
    words = sweep(gptx, "kernel=troubled", "kernel.how=none,once", "sweep.retry=1")
    (gptx.cwd / "broken once").touch()
    assert gptx.run("gptx.run", *words, PAUSE_IN=str(gptx.cwd)).code == 0
    before = uids(gptx)
    (gptx.cwd / "broken once").unlink()
    again = gptx.run("gptx.run", *words, "force=true", PAUSE_IN=str(gptx.cwd))
    assert again.code == 0, again.err
    assert not set(before.values()) & set(uids(gptx).values())
    assert [r["step"] for folder in gptx.folders() for r in records(folder, "resume")] == [10]
    bounds = ["sweep.timeout=1e-3", "sweep.grace=1", "sweep.retry=0"]
    late = gptx.run("gptx.run", *words, "force=true", *bounds, PAUSE_IN=str(gptx.cwd), PAUSE_AT="5")
    assert late.code == 1
    assert sorted(told(late.err)) == ["kernel.how=none", "kernel.how=once"]


def test_a_second_command_is_refused_while_the_first_is_at_work(gptx: Gptx) -> None:
    pause = {"PAUSE_AT": "15", "PAUSE_IN": str(gptx.cwd)}
    words = sweep(gptx, "kernel=fragile", "seed=0,1", "sweep.jobs=1")
    running = gptx.popen("gptx.run", *words, **pause)
    assert until(lambda: (gptx.cwd / "paused-0").exists(), running), running.communicate()
    second = gptx.run("gptx.run", *words)
    assert second.code == 2 and f"is already being swept, by process {running.pid}" in second.err
    (gptx.cwd / "go").touch()
    assert running.communicate(timeout=DEADLINE) and running.returncode == 0


def kill_some(gptx: Gptx, words: list[str], rng: random.Random, folders: int) -> None:
    """Start the sweep, and kill it with all that it has started once so many runs have begun and one trains on."""
    running = gptx.popen("gptx.run", *words, SLOW="0.01")
    step = rng.randrange(1, 20)

    def trains_on(folder: Path) -> bool:
        return _step(folder) >= step and journal.status(folder) == "running"

    assert until(lambda: len(gptx.folders()) > folders and any(map(trains_on, gptx.folders())), running)
    victims = gptx.processes()
    rng.shuffle(victims)
    send(victims, signal.SIGKILL)
    running.communicate(timeout=DEADLINE)


def _step(folder: Path) -> int:
    return max((record["step"] for record in records(folder, "metrics")), default=0)


def survives(make: Maker, runs: int, *grid: str) -> None:
    ours, theirs = make("killed"), make("undisturbed")
    words = ["kernel=fragile", *grid]
    assert theirs.run("gptx.run", *sweep(theirs, *words)).code == 0
    rng = random.Random(0)
    for done in (0, runs // 4, runs // 2):
        kill_some(ours, sweep(ours, *words), rng, done)
    last = ours.run("gptx.run", *sweep(ours, *words))
    assert last.code == 0, last.err
    equal_sweeps(ours, theirs, runs)


def test_a_sweep_killed_three_times_is_done_once(make: Maker) -> None:
    survives(make, 6, *GRID)


@pytest.mark.slow
def test_24_runs_killed_three_times_are_done_once(make: Maker) -> None:
    survives(make, 24, *GRID, "window=full,sliding", "seed=0,1")


@pytest.mark.slow
def test_the_grid_of_the_readme(gptx: Gptx) -> None:
    """12 combinations; Ctrl-C on the terminal in the third; the same command does the rest; compare shows all."""
    grid = ["-m", *gptx.tiny, "attention=mha,gqa,mqa", "pos=learned,rope", "window=full,sliding"]
    terminal = Terminal(gptx, "gptx.run", *grid)
    assert terminal.until(lambda: "[3/12]" in terminal.shown)
    assert "running" in terminal.shown and "left" in terminal.shown
    terminal.press(b"\x03")
    assert terminal.end() == 130, terminal.shown
    assert "Traceback" not in terminal.shown
    assert gptx.orphans() == []
    before = {
        name: uid for name, uid in uids(gptx).items() if (gptx.outputs / "default" / name / "result.json").exists()
    }
    done = gptx.run("gptx.run", *grid)
    assert done.code == 0, done.err
    assert len(gptx.folders()) == 12
    assert before.items() <= uids(gptx).items()


# ------------------------------------------------------------------------------------------ a run that stops early


def test_a_run_stops_where_it_is_told_to_and_goes_on_bit_for_bit(make: Maker) -> None:
    gptx, whole = make("halted"), make("whole")
    assert whole().code == 0
    for until_step in (10, 20):
        done = gptx(f"runtime.until={until_step}")
        assert done.code == 0, done.err
        assert f"stopped at step {until_step}, as runtime.until asks" in done.out
        assert journal.status(gptx.folder) == "interrupted"
        assert ("val/loss", until_step) in history(gptx.folder)
    assert gptx("runtime.until=99").code == 0
    same(gptx.folder, whole.folder)
