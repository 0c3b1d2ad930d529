"""Repeat some steps of a run in a temporary folder, and compare the outcome with the run: see `certificate`."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.cli import log
from gptx.config.identity import result_keys
from gptx.config.plain_dict import plain_dict
from gptx.config.saved_config import CONFIG, config_errors
from gptx.config.trust import own_modules
from gptx.errors import ConfigError, Interrupted, NotTokenised
from gptx.runs import journal
from gptx.runs.checkpoint_files import damage, step_name, step_of, steps
from gptx.runs.code_copy import CODE
from gptx.runs.damaged_files import readable
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import StartRecord
from gptx.runs.resume_source import checkpoint_of
from gptx.training.trusted_config import trusted_config

if TYPE_CHECKING:
    from gptx.training.certificate import Certificate
    from gptx.training.preflight import Preflight


def certify(
    folder: RunFolder, start_step: int | None = None, trust: Iterable[str] = (), trust_code: bool = False
) -> "Certificate":
    """Train again from one checkpoint of a run to a later one, and compare the results with the run.

    The caller holds the run's lock.

    Args:
        start_step: the checkpoint to start from; 0: the start of the run; None: the oldest.
        trust, trust_code: which modules outside gptx the run may use, see `trusted_config`.

    Raises:
        ConfigError: there is no run, or it does not have two intact checkpoints to start from and to end at.
        Interrupted: a signal stopped the training.
    """
    from gptx.training.certificate import certificate, conditions_of

    with readable(folder.path / journal.NAME):
        start = folder.start_record() if (folder.path / "config.yaml").exists() else None
    if start is None:
        raise ConfigError(f"{folder.path} is not a run folder: config.yaml or journal.jsonl is missing")
    cfg = trusted_config(folder.path, trust, trust_code)
    _check_config(cfg, start, folder)
    first, last = _choose_steps(folder, start_step)
    trained_from = first or (start.resume_source.step if start.resume_source else 0)
    with readable(folder.path / journal.NAME):
        before = conditions_of(folder, trained_from, last)
    with tempfile.TemporaryDirectory(prefix="gptx-") as place, _working_directory_of(cfg, folder):
        repetition = RunFolder(Path(place) / folder.path.name)
        with config_errors(folder.path):
            _choose_token_folder(cfg, folder, Path(place))
            ready = _prepare(cfg, start, first, before[-1].processes)
        if trust_code and own_modules(plain_dict(cfg)) and not ready.strategy.in_process:
            raise ConfigError(
                f"--trust-code works in one process only: add {folder.path / CODE} to PYTHONPATH, and name the modules "
                "with --trust"
            )
        _copy_start(folder, start, repetition, first)
        began = time.monotonic()
        _train(cfg, repetition.path, last, ready)
        seconds = time.monotonic() - began
        return certificate(folder, repetition, (trained_from, last), before, ready.facts, seconds)


def _check_config(cfg: DictConfig, start: StartRecord, folder: RunFolder) -> None:
    """Check that the config is the one with which the run was started.

    Raises:
        ConfigError: a key that decides the result has another value.
    """
    given, recorded = result_keys(plain_dict(cfg), start.revisions), result_keys(start.config, start.revisions)
    for key, value in recorded.items():
        if given.get(key) != value:
            raise ConfigError(
                f"{folder.path / CONFIG} has {key}={given.get(key)}, but the run was started with {value} "
                f"({journal.NAME}): restore the file"
            )


def _choose_steps(folder: RunFolder, start_step: int | None) -> tuple[int, int]:
    """The first and the last step, each with an intact checkpoint (or 0, the start).

    Raises:
        ConfigError: there are no such steps, or ``start_step`` is not one of them.
    """
    reasons = {step_of(path): damage(path) for path in steps(folder.checkpoints)}
    damaged = {step: f"{step_name(step)} is damaged ({reason})" for step, reason in reasons.items() if reason}
    intact = [step for step, reason in reasons.items() if reason is None]
    if not intact:
        reason = "; ".join(damaged.values()) or "the run has not reached its first validation"
        raise ConfigError(f"{folder.path} has no checkpoint to compare with: {reason}")
    if start_step is None:
        _warn_of(damaged.values())
        return (intact[0], intact[-1]) if len(intact) > 1 else (0, intact[-1])
    if start_step not in (0, *intact[:-1]):
        expected = " or ".join(map(str, (0, *intact[:-1])))
        reason = "; ".join(["", *damaged.values()])
        raise ConfigError(
            f"--from {start_step}: expected {expected}; the intact checkpoints are of the steps "
            f"{', '.join(map(str, intact))}{reason}"
        )
    last = next(step for step in intact if step > start_step)
    _warn_of(line for step, line in damaged.items() if start_step <= step <= last)
    return start_step, last


def _warn_of(damaged: Iterable[str]) -> None:
    """Report damaged checkpoints in the repeated steps."""
    for line in damaged:
        log.warning("%s: ignored", line)


@contextlib.contextmanager
def _working_directory_of(cfg: DictConfig, folder: RunFolder) -> Iterator[None]:
    """Change to the folder above paths.outputs, where the run was started: relative paths of its config start there.

    No Python process that is started there imports modules from there, because the folder may come from somebody else.
    """
    outputs, current = Path(cfg.paths.outputs), folder.path.parents[1]
    if outputs.is_absolute() or not outputs.parts:
        yield
        return
    above = current.parents[len(outputs.parts) - 1]
    if above / outputs != current:
        yield
        return
    with _imports_not_from_working_directory(), contextlib.chdir(above):
        yield


@contextlib.contextmanager
def _imports_not_from_working_directory() -> Iterator[None]:
    """Within the block, this process and those that it starts import nothing from their working directory."""
    search_path, environment = sys.path[:], dict(os.environ)
    sys.path[:] = map(os.path.abspath, search_path)
    os.environ["PYTHONSAFEPATH"] = "1"
    if places := environment.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, places.split(os.pathsep)))
    try:
        yield
    finally:
        sys.path[:] = search_path
        for name in ("PYTHONSAFEPATH", "PYTHONPATH"):
            os.environ.pop(name, None)
            os.environ.update({name: environment[name]} if name in environment else {})


def _choose_token_folder(cfg: DictConfig, folder: RunFolder, place: Path) -> None:
    """Outside the outputs of the run, token files are only read: the run may come from somebody else, and so may
    ``paths.data``. If they are missing or damaged there, they are created in a temporary folder instead."""
    from gptx.data.from_config import tokens_of

    data = Path(cfg.paths.data).resolve()
    if data.is_relative_to(folder.path.resolve().parents[1]):
        return
    try:
        tokens_of(cfg, create=False, thorough=True)
    except NotTokenised:
        log.warning("no intact token files in %s, outside the run's outputs: creating them in a temporary folder", data)
        cfg.paths.data = str(place / "data")


def _prepare(cfg: DictConfig, start: StartRecord, first: int, processes: int) -> "Preflight":
    """Set what the repetition needs in the config, and check it."""
    import torch

    from gptx.data.from_config import tokens_of
    from gptx.hardware.device import pick
    from gptx.training.preflight import preflight

    cfg.resume_from = _resume_from(cfg, start) if first == 0 else ""
    cfg.tracking.enabled = False
    cfg.strategy.nproc = processes
    if pick(cfg.device.type).type == "cuda":
        cfg.strategy.nproc = min(processes, torch.cuda.device_count())
    tokens_of(cfg, quiet=False, thorough=True)  # creates damaged token files again
    return preflight(cfg)


def _resume_from(cfg: DictConfig, start: StartRecord) -> str:
    """The path of the checkpoint of another run from which this run started, or "" if it started without one."""
    source = start.resume_source
    if source is None:
        return ""
    path = checkpoint_of(cfg.resume_from, source.step)
    if not path.is_dir():
        raise ConfigError(
            f"this run started from step {source.step} of another run (resume_from={cfg.resume_from}), whose "
            "checkpoint no longer exists: only steps between two checkpoints of this run can be repeated, with "
            "runtime.keep=2 or more"
        )
    return str(path)


def _copy_start(folder: RunFolder, start: StartRecord, repetition: RunFolder, first: int) -> None:
    """Create a run folder that continues from a checkpoint of the run, by a symbolic link to the checkpoint."""
    repetition.checkpoints.mkdir(parents=True)
    with Journal(repetition.path) as book:
        book.write(start)
    if first:
        name = step_name(first)
        (repetition.checkpoints / name).symlink_to(folder.checkpoints / name)


def _train(cfg: DictConfig, path: Path, last: int, ready: "Preflight") -> None:
    """Train up to a step, as the command ``gptx run`` does.

    Raises:
        Interrupted: a signal stopped the training.
    """
    from gptx.hardware.cpu import threads
    from gptx.processes import workers
    from gptx.training.rank_process import fit, worker

    if ready.strategy.in_process:
        fit(cfg, str(path), last)
        return
    processes = ready.facts.processes
    arguments = (plain_dict(cfg), str(path), last)
    count = threads(cfg.runtime.threads, processes)
    if number := workers.start(worker, arguments, processes, count, path / "logs"):
        raise Interrupted(number)
