"""The command: compose -> check -> start the workers -> train. ``python -m gptx.run --help`` teaches its use.

Run again, the same command goes on with an interrupted run and shows the result of a finished one.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gptx.cli import configure_logging, default_sigint, exit_code, log, split_verbosity
from gptx.config.command import run_hydra
from gptx.config.compose import plain_dict
from gptx.config.overrides import about_sweeps
from gptx.errors import GptxError, Interrupted, RunFailed, reason
from gptx.processes.signals import block_warning_signals, stop_exit_code
from gptx.runs import checkpoint_files
from gptx.runs.facts import RunFacts
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import EndReason
from gptx.tracking.follower import Follower
from gptx.training.location import Location, locate
from gptx.training.preflight import preflight
from gptx.training.start import begin, other_code, resume, warn

if TYPE_CHECKING:
    from gptx.strategy.base import Strategy


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    verbosity, sys.argv[1:] = split_verbosity(sys.argv[1:] if argv is None else argv)
    configure_logging(verbosity)
    code = exit_code(_run)
    if code and "RANK" in os.environ:  # ending in the normal way, a worker of torchrun waits for its peers, or aborts
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run() -> int:
    block_warning_signals()
    default_sigint()
    try:
        return run_hydra(_task)
    except OSError as error:  # a disk that is full or read-only
        raise RunFailed(f"{error}; the same command resumes from the last checkpoint") from error
    except (Interrupted, KeyboardInterrupt) as stop:
        log.error("interrupted; the same command resumes from the last checkpoint")
        return stop_exit_code(next(iter(stop.args), signal.SIGINT))


def _task(cfg: DictConfig, overrides: list[str]) -> int:
    return _dry(overrides) if cfg.dry_run else run(cfg)


def _dry(words: list[str]) -> int:
    """Check a run and show what it takes."""
    from gptx.sweep.execute.launcher import make
    from gptx.sweep.plan.cells import check_cells, compose_cells
    from gptx.sweep.plan.preview import preview

    cfg = HydraConfig.get()
    found = compose_cells([[word for word in words if not about_sweeps(word)]])
    launcher = make(cfg.launcher)
    check_cells(found, launcher.machine)
    preview(found, launcher, found[0].cfg)
    return 2 if found[0].rejection else 0


def run(cfg: DictConfig) -> int:
    """Train, resume or show one run; returns the exit code."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        cfg.force = False  # torchrun gives the whole command again: what it is to go on with was started afresh
    location = locate(cfg)
    folder = location.folder
    if _finished(cfg, location.existing):
        if _rank() == 0:
            _summary(cfg, location.existing, "finished already")
            _say_of_other_code(location.existing)
        return 0
    ready = preflight(cfg)
    if _rank() > 0:  # another worker of torchrun: the first keeps the books
        _as_rank(cfg, folder)
        return 0
    with folder.lock():
        folder.settle()
        if folder.finished() and not cfg.force:  # by another command, while this one was getting ready
            _summary(cfg, folder, "finished already")
            return 0
        begin(cfg, folder, location.identity, ready.facts, _set_aside(cfg, location))
        follower = Follower.start([folder.path], plain_dict(cfg)["tracking"], Path(cfg.paths.outputs))
        try:
            code = _train(cfg, folder, ready.strategy, ready.facts)
        finally:
            warning = follower.finish() if follower else None
    if warning:
        print(f"gptx: {warning}", file=sys.stderr)
    if folder.finished():
        _summary(cfg, folder, "finished")
    return code


def _set_aside(cfg: DictConfig, location: Location) -> str | None:
    """With force=true, move an earlier run of this config out of the way; returns its uid."""
    if not cfg.force:
        return None
    outputs = Path(cfg.paths.outputs)
    if location.former is None:
        return location.folder.set_aside(outputs)
    with location.former.lock():
        return location.former.set_aside(outputs)


def _finished(cfg: DictConfig, folder: RunFolder) -> bool:
    """Whether there is nothing to do. Of torchrun's workers the first one knows: else those that find nothing, for want
    of a shared folder, would wait for it."""
    here = folder.finished() and not cfg.force
    if "RANK" not in os.environ:
        return here
    from gptx.processes.workers import broadcast_from_rank_0

    there = broadcast_from_rank_0("finished" if here else "not yet") == "finished"
    if there and not here:
        print(
            f"gptx: the run is finished, but not in {folder.path}: let all machines share paths.outputs",
            file=sys.stderr,
        )
    return there


def _say_of_other_code(folder: RunFolder) -> None:
    if names := other_code(folder):
        print(
            f"gptx: made by other code than is here ({', '.join(names)}): force=true makes it afresh", file=sys.stderr
        )


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _train(cfg: DictConfig, folder: RunFolder, strategy: "Strategy", facts: RunFacts) -> int:
    """Train in this process or in workers; whatever happens, the journal says how it ended."""
    from gptx.training.session import fit

    number = 0
    try:
        if strategy.in_process:
            fit(cfg, str(folder.path), until(cfg))
        elif "RANK" in os.environ:
            _as_rank(cfg, folder)
        else:
            number = _in_workers(cfg, folder, strategy, facts)
    except (Interrupted, KeyboardInterrupt) as stop:
        number = next(iter(stop.args), signal.SIGINT)
    except (GptxError, OSError) as error:
        if folder.finished():  # by the first worker; another one was lost after that
            return 0
        with contextlib.suppress(GptxError, OSError):  # on a full disk: the journal then has no end, and that says it
            folder.end(EndReason.ERROR, error=str(error).splitlines()[-1])  # of a worker's traceback: what was raised
        raise
    except Exception as error:
        folder.end(EndReason.ERROR, error=reason(error))
        traceback.print_exc()
        return 1
    if folder.finished():  # a signal in the last moment comes too late
        return 0
    stopped = bool(until(cfg)) and checkpoint_files.newest(folder.checkpoints) >= until(cfg)
    folder.end(EndReason.UNTIL if stopped else EndReason.SIGNAL)
    if stopped:
        print(f"stopped at step {until(cfg)}, as runtime.until asks; without it the same command goes on")
        return 0
    print(f"gptx: interrupted; the same command goes on from the last checkpoint in {folder.path}", file=sys.stderr)
    return stop_exit_code(number)


def _as_rank(cfg: DictConfig, folder: RunFolder) -> None:
    """Train as one of torchrun's workers."""
    from gptx.processes.workers import run_as_rank
    from gptx.training.session import worker

    run_as_rank(worker, (plain_dict(cfg), str(folder.path), until(cfg)), folder.path / "logs")


def until(cfg: DictConfig) -> int:
    """The step at which the run is left without a result; 0: none."""
    return int(cfg.runtime.until) if cfg.runtime.until < cfg.trainer.max_steps else 0


def _in_workers(cfg: DictConfig, folder: RunFolder, strategy: "Strategy", facts: RunFacts) -> int:
    """Train in workers, started again from the last checkpoint when one is lost; returns the signal that stopped them,
    or 0."""
    from gptx.hardware.cpu import threads
    from gptx.processes import workers
    from gptx.training.session import worker

    processes = facts.processes
    for left in reversed(range(strategy.restarts + 1)):
        args = (plain_dict(cfg), str(folder.path), until(cfg))
        try:
            return workers.start(worker, args, processes, threads(cfg.runtime.threads, processes), folder.path / "logs")
        except workers.WorkerLost as lost:
            if not left:
                raise
            with Journal(folder.path) as book:
                warn(book, f"{lost}. Starting again from the last checkpoint (strategy.restarts: {left - 1} left)")
                resume(folder, book, facts)
    raise AssertionError("restarts are never negative")


def _summary(cfg: DictConfig, folder: RunFolder, how: str) -> None:
    from gptx.training.summary import brief, show

    result = folder.result()
    assert result is not None
    (brief if cfg.runtime.brief else show)(result, folder.path, how)


if __name__ == "__main__":
    sys.exit(main())
