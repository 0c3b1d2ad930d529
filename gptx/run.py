"""``gptx run``: train, resume or show one run; with ``-m``, a sweep. ``gptx run --help`` explains its use."""

import os
import signal
import sys
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gptx.cli import configure_logging, default_sigint, exit_code, log, split_verbosity, stop_exit_code
from gptx.config.command import run_hydra
from gptx.config.overrides import about_sweeps
from gptx.errors import Interrupted, RunFailed
from gptx.processes.children import end_rank
from gptx.processes.signals import block_warning_signals
from gptx.training.run_lifecycle import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    verbosity, sys.argv[1:] = split_verbosity(sys.argv[1:] if argv is None else argv)
    configure_logging(verbosity)
    code = exit_code(_run, broken_pipe=int(not {"-m", "--multirun"}.isdisjoint(sys.argv)))  # a run raises RunFailed
    if "RANK" in os.environ:  # of torchrun
        end_rank(code)
    return code


def _run() -> int:
    block_warning_signals()
    default_sigint()
    try:
        return run_hydra(lambda cfg, overrides: _dry_run(overrides) if cfg.dry_run else run(cfg))
    except BrokenPipeError:
        raise
    except OSError as error:  # a disk that is full or read-only
        raise RunFailed(f"{error}; the same command resumes from the last checkpoint") from error
    except (Interrupted, KeyboardInterrupt) as stop:
        log.error("interrupted; the same command resumes from the last checkpoint")
        return stop_exit_code(next(iter(stop.args), signal.SIGINT))


def _dry_run(overrides: list[str]) -> int:
    """Check one run and show its estimated costs; returns the exit code."""
    from gptx.sweep.execute.launcher import make
    from gptx.sweep.plan.cell_checks import check_cells
    from gptx.sweep.plan.cells import compose_cells
    from gptx.sweep.plan.preview import preview

    cells = compose_cells([[override for override in overrides if not about_sweeps(override)]])
    launcher = make(HydraConfig.get().launcher)
    check_cells(cells, launcher.machine)
    preview(cells, launcher, OmegaConf.create(cells[0].config))
    return 2 if cells[0].rejection else 0


if __name__ == "__main__":
    sys.exit(main())
