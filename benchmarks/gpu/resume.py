"""Part 4b: a run that is stopped and continued, its certificate, and a run that is killed, all with the real command
line: bitwise equal to the undisturbed run."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import differences
from benchmarks.gpu.compiler import needs_compiler
from benchmarks.gpu.part import Part, Partial, Results, Row, Settings
from benchmarks.report import markdown_table
from gptx.errors import RunFailed
from gptx.runs import journal

STEPS = 120
RUN = (
    *("tracking=off", f"trainer.max_steps={STEPS}", "trainer.val_tokens=2048", "runtime.log_every=10"),
    *("model.dropout=0.1", "runtime.sample_tokens=16", "runtime.keep=20", "runtime.brief=true"),
)
SIZES = {
    "cuda": ("model.n_layer=6", "model.n_head=6", "model.d_model=384", "model.context=256", "trainer.batch_size=16"),
    "cpu": ("model.n_layer=1", "model.d_model=32", "model.context=32", "trainer.batch_size=4", "runtime.threads=1"),
}
EVERY = 20  # steps between checkpoints
VARIANTS = {
    "single": (),
    # With more tokens, so that several blocks of threads add to one gradient of attention.
    "fsdp": ("strategy=fsdp", "strategy.nproc=1", "model.context=1024", "trainer.batch_size=4"),
    "compiled": ("compile=true",),
}
WAIT, WAIT_COMPILED = 60.0, 80.0  # seconds that a command may take
LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Setup:
    """``kind``: resume, certificate or kill."""

    variant: str
    kind: str

    def __str__(self) -> str:
        return f"{self.variant}, {self.kind}"


@dataclass(frozen=True)
class Comparison:
    """``outcome``: what was compared; ``wrong``: what differs."""

    setup: Setup
    outcome: str
    wrong: str = ""

    @property
    def text(self) -> str:
        return self.outcome


def cases(settings: Settings) -> Mapping[str, Setup]:
    variants = ["single"] if settings.toy else VARIANTS
    setups = [Setup(variant, kind) for kind in ("resume", "kill", "certificate") for variant in variants]
    return {str(setup): setup for setup in setups}


def measure(setup: Setup, settings: Settings, partial: Partial) -> Comparison:
    place = Path(settings.scratch)
    if setup.variant == "compiled":
        needs_compiler(settings)
    reference = undisturbed(setup.variant, settings)
    if setup.kind == "certificate":
        return certificate(setup, reference, place)
    study = f"{setup.variant}-{setup.kind}"
    if setup.kind == "resume":
        finish(settings, setup.variant, study, f"runtime.until={STEPS // 2}")
        how = f"stopped at step {STEPS // 2} and continued"
    else:
        how = f"killed after step {killed_after(settings, setup.variant, study)} and continued"
    finish(settings, setup.variant, study)
    found = differences(folder_of(place, study), reference)
    outcome = how if found else f"{how}: losses, weights and moments are bitwise equal"
    return Comparison(setup, outcome, f"differs in {', '.join(found)}" if found else "")


def undisturbed(variant: str, settings: Settings) -> Path:
    """The folder of the run that nothing disturbs."""
    place, study = Path(settings.scratch), f"{variant}-undisturbed"
    if not (place / "outputs" / study).exists() or journal.status(folder_of(place, study)) != "finished":
        finish(settings, variant, study)
    return folder_of(place, study)


def certificate(setup: Setup, reference: Path, place: Path) -> Comparison:
    done = subprocess.run(
        [sys.executable, "-m", "gptx.certify", str(reference)],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=limit_of(setup.variant),
        preexec_fn=die_with_parent,
    )
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode not in (0, 1) or not lines:
        raise RunFailed(f"gptx certify ended with exit code {done.returncode}: {done.stderr.strip()}")
    conclusion = json.loads((reference / "certificate.json").read_text())["conclusion"]
    return Comparison(setup, f"certificate: {conclusion}", "" if done.returncode == 0 else "expected equal results")


def start(settings: Settings, variant: str, study: str, *more: str) -> "subprocess.Popen[str]":
    every = f"trainer.eval_every={EVERY}"
    words = [*RUN, *SIZES[settings.device], every, *VARIANTS[variant], f"device={settings.device}", f"study={study}"]
    return subprocess.Popen(
        [sys.executable, "-m", "gptx.run", *words, *more],
        cwd=settings.scratch,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )


def die_with_parent() -> None:
    """In a new process before it executes its program: Linux is to kill it when its parent dies."""
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def finish(settings: Settings, variant: str, study: str, *more: str) -> None:
    run = start(settings, variant, study, *more)
    err = wait(run, limit_of(variant))
    if run.returncode:
        raise RunFailed(f"gptx run ended with exit code {run.returncode}: {' '.join(err.split())[-300:]}")


def limit_of(variant: str) -> float:
    """Seconds that a command may take."""
    return WAIT_COMPILED if variant == "compiled" else WAIT


def wait(run: "subprocess.Popen[str]", limit: float) -> str:
    """Wait for the end of a run; returns what it wrote to stderr. A run that takes longer is killed.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``limit`` seconds.
    """
    try:
        return run.communicate(timeout=limit)[1]
    except subprocess.TimeoutExpired:
        run.kill()
        run.communicate(timeout=WAIT)
        raise


def killed_after(settings: Settings, variant: str, study: str) -> int:
    """Start a run and kill it (SIGKILL) once it has written a checkpoint; return the step of its newest one."""
    run, deadline = start(settings, variant, study), time.monotonic() + limit_of(variant)
    study_folder = Path(settings.scratch) / "outputs" / study
    while not list(study_folder.glob("*/checkpoints/step-*")) and run.poll() is None:
        if time.monotonic() > deadline:
            run.kill()
            run.communicate(timeout=WAIT)
            raise RunFailed(f"no checkpoint after {limit_of(variant):g} s")
        time.sleep(0.002)
    ended = run.poll()
    os.kill(run.pid, signal.SIGKILL)  # not yet reaped by this process, so that the id is its own
    err = wait(run, WAIT)
    if ended is not None or journal.status(folder_of(Path(settings.scratch), study)) == "finished":
        raise RunFailed(f"the run ended before it was killed (exit code {ended}): {' '.join(err.split())[-200:]}")
    return max(int(path.name.removeprefix("step-")) for path in study_folder.glob("*/checkpoints/step-*"))


def folder_of(place: Path, study: str) -> Path:
    [folder] = journal.runs(place / "outputs" / study)
    return folder


def tables(rows: Sequence[Row], results: Results) -> str:
    lines = [(row.figures["setup"]["variant"], row.figures["setup"]["kind"], row.text) for row in rows]
    return markdown_table(("run", "disturbed by", "result"), lines, left=3)


PART = Part("resume", "Resume, certificate and kill", 75, 170, cases, measure, tables)
