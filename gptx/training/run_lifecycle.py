"""The life cycle of a run: find it, lock its folder, train it, record how it ended, show its result.

No torch is imported for a run that is finished already.
"""

import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path

from omegaconf import DictConfig

from gptx.cli import log, stop_exit_code
from gptx.config.plain_dict import plain_dict
from gptx.errors import GptxError, Interrupted, RunFailed, reason
from gptx.runs import checkpoint_files
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.machine_runs import counted
from gptx.runs.records import VALIDATION, RunEndReason
from gptx.terminal import echo
from gptx.tracking.follower import Follower
from gptx.training.preflight import Preflight, preflight
from gptx.training.run_header import print_header
from gptx.training.run_location import Location, locate
from gptx.training.start_record import begin, other_code, resume, warn


def run(cfg: DictConfig) -> int:
    """Train, resume or show one run; returns the exit code.

    Raises:
        GptxError: the config cannot be trained, another process trains this run, or training failed.
        Interrupted: a signal arrived before training started.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        cfg.force = False  # torchrun repeats the command after a lost worker; only the first start uses force=true
    location = locate(cfg)
    log.debug("identity %s", location.identity)
    location.check(cfg.force)
    if _is_finished(cfg, location.existing):
        if _rank() == 0:
            _show_finished(cfg, location.existing)
        return 0
    ready = preflight(cfg)
    location = location.create_folder()
    log.debug("folder %s", location.folder.path)
    if _rank() > 0:  # of torchrun; rank 0 records the run
        _train_as_rank(cfg, location.folder)
        return 0
    return _run_locked(cfg, location, ready)


def _run_locked(cfg: DictConfig, location: Location, ready: Preflight) -> int:
    folder, warning = location.folder, ""
    with folder.lock():
        folder.settle()
        if folder.finished() and not cfg.force:  # another command has finished it since it was located
            _show_summary(cfg, folder, "finished already")
            return 0
        begin(cfg, folder, location.identity, ready.facts, _replace_earlier(cfg, location))
        follower = Follower.start([folder.path], plain_dict(cfg)["tracking"], Path(cfg.paths.outputs))
        try:
            with counted(folder.path):
                code = _train(cfg, folder, ready)
        finally:
            warning = (follower.finish() if follower else None) or ""
    if warning:
        log.warning("%s", warning)
    if folder.finished():
        _show_summary(cfg, folder, "finished")
    return code


def _is_finished(cfg: DictConfig, folder: RunFolder) -> bool:
    """Whether there is nothing to train. Under torchrun rank 0 decides, since other machines may not see its folder."""
    here = folder.finished() and not cfg.force
    if "RANK" not in os.environ:
        return here
    from gptx.processes.workers import broadcast_from_rank_0

    on_rank_0 = broadcast_from_rank_0("finished" if here else "not finished") == "finished"
    if on_rank_0 and not here:
        log.warning("the run is finished, but not in %s: all machines must share paths.outputs", folder.path)
    return on_rank_0


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _replace_earlier(cfg: DictConfig, location: Location) -> str | None:
    """With force=true, move an earlier run of this config to ``outputs/.replaced``; returns its uid."""
    if not cfg.force:
        return None
    outputs = Path(cfg.paths.outputs)
    if location.former is None:
        return location.folder.move_away(outputs)
    with location.former.lock():
        return location.former.move_away(outputs)


def _train(cfg: DictConfig, folder: RunFolder, ready: Preflight) -> int:
    """Train, and record in the journal how it ended; returns the exit code."""
    try:
        if not cfg.runtime.brief:
            print_header(cfg, folder, ready.facts, until(cfg) or cfg.trainer.max_steps)
        number = _train_in_processes(cfg, folder, ready)
    except (Interrupted, KeyboardInterrupt) as stop:
        number = next(iter(stop.args), signal.SIGINT)
    except (GptxError, OSError) as error:
        if folder.finished():  # rank 0 has finished it, and another rank was lost after that
            return 0
        # On a full disk the journal gets no end record, and the run counts as killed. A worker's error is a traceback.
        with contextlib.suppress(GptxError, OSError):
            folder.end(RunEndReason.ERROR, error=str(error).splitlines()[-1])
        if isinstance(error, BrokenPipeError):
            raise RunFailed(f"{error}; the same command resumes from the last checkpoint") from error
        raise
    except Exception as error:
        folder.end(RunEndReason.ERROR, error=reason(error))
        echo(traceback.format_exc(), file=sys.stderr)
        log.error("%s", reason(error))
        return 1
    return 0 if folder.finished() else _end_unfinished(cfg, folder, number)  # finished: the signal came too late


def _train_in_processes(cfg: DictConfig, folder: RunFolder, ready: Preflight) -> int:
    """Train in this process or in workers; returns the number of the signal that stopped the workers, or 0."""
    if ready.strategy.in_process:
        from gptx.training.rank_process import fit

        fit(cfg, str(folder.path), until(cfg))
        return 0
    if "RANK" in os.environ:
        _train_as_rank(cfg, folder)
        return 0
    return _train_in_workers(cfg, folder, ready)


def _end_unfinished(cfg: DictConfig, folder: RunFolder, number: int) -> int:
    """Record the end of a run that was stopped before its last step; returns the exit code."""
    stopped = bool(until(cfg)) and checkpoint_files.newest(folder.checkpoints) >= until(cfg)
    folder.end(RunEndReason.UNTIL if stopped else RunEndReason.SIGNAL)
    if stopped:
        echo(f"stopped at step {until(cfg)}, as runtime.until asks; without it the same command resumes")
        return 0
    log.error("interrupted; the same command resumes from the last checkpoint in %s", folder.path)
    return stop_exit_code(number)


def _train_as_rank(cfg: DictConfig, folder: RunFolder) -> None:
    """Train as one of torchrun's workers."""
    from gptx.processes.workers import run_as_rank
    from gptx.training.rank_process import worker

    run_as_rank(worker, (plain_dict(cfg), str(folder.path), until(cfg)), folder.path / "logs")


def until(cfg: DictConfig) -> int:
    """The step at which to stop without a result; 0: train to the end."""
    return int(cfg.runtime.until) if cfg.runtime.until < cfg.trainer.max_steps else 0


def _train_in_workers(cfg: DictConfig, folder: RunFolder, ready: Preflight) -> int:
    """Train in worker processes. After a lost worker, start them again from the last checkpoint, as often as
    ``strategy.restarts`` allows. Returns the number of the signal that stopped them, or 0."""
    from gptx.hardware.cpu import threads
    from gptx.processes import workers
    from gptx.training.rank_process import worker

    processes = ready.facts.processes
    arguments = (plain_dict(cfg), str(folder.path), until(cfg))
    for left in reversed(range(ready.strategy.restarts + 1)):
        try:
            per_process = threads(cfg.runtime.threads, processes)
            return workers.start(worker, arguments, processes, per_process, folder.path / "logs")
        except workers.WorkerLost as lost:
            if not left:
                raise
            with Journal(folder.path) as journal:
                warn(journal, f"{lost}. Restarting from the last checkpoint (strategy.restarts: {left - 1} left)")
                resume(folder, journal, ready.facts)
    raise AssertionError("strategy.restarts is at least 0")


def _show_finished(cfg: DictConfig, folder: RunFolder) -> None:
    _show_summary(cfg, folder, "finished already")
    _warn_of_former_validation(folder)
    if names := other_code(folder):
        log.warning("the source has changed since the run was made (%s): force=true trains it again", ", ".join(names))


def _warn_of_former_validation(folder: RunFolder) -> None:
    """Warn that a result has metrics of an earlier definition, see `gptx.runs.records.VALIDATION`."""
    result = folder.result()
    if result is None or result.validation >= VALIDATION:
        return
    log.warning(
        "the run was started by an earlier version of gptx, whose validation metrics had another definition (%d, now "
        "%d), see docs/data.md: force=true trains it again",
        result.validation,
        VALIDATION,
    )


def _show_summary(cfg: DictConfig, folder: RunFolder, how: str) -> None:
    from gptx.training.summary import brief, show

    result = folder.result()
    assert result is not None
    try:
        (brief if cfg.runtime.brief else show)(result, folder.path, how)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunFailed(f"cannot print the result: {error}; the run is finished, in {folder.path}") from error
