"""The command line of ``gptx run``: Hydra parses it, gptx composes and checks the config. Does not import torch."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gptx.cli import Parser, log
from gptx.config.compose import compose
from gptx.config.composition_errors import UNREADABLE, explain
from gptx.config.overrides import about_sweeps, check_choice, conf_dir, key_of
from gptx.errors import ConfigError

Task = Callable[[DictConfig, list[str]], int]


@dataclass
class _CommandOutcome:
    """The exit code or exception of a task, recorded because Hydra would print its own message about an exception."""

    code: int = 0
    errors: list[Exception] = field(default_factory=list)


def run_hydra(task: Task) -> int:
    """Run the command line in ``sys.argv``: help, shell completion, a sweep (``-m``), or one run.

    Args:
        task: called for one run (not a sweep) with the checked config and the overrides; returns the exit code.

    Raises:
        ConfigError: the command line or a YAML file has a mistake.
        SystemExit: the exit code of a sweep.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    outcome = _CommandOutcome()

    def guarded(_: DictConfig) -> None:  # the config that Hydra composed is not checked
        try:
            outcome.code = _one_run(task)
        except Exception as error:
            outcome.errors.append(error)

    try:
        _check_arguments()
        hydra.main(str(conf_dir()), "config", version_base="1.3")(guarded)()
    except UNREADABLE as error:
        raise ConfigError(explain(error, sys.argv[1:])) from error
    if outcome.errors:
        raise outcome.errors[0]
    return outcome.code


def _check_arguments() -> None:
    """Move flags in front of the overrides, where Hydra's parser accepts them; reject wrong flags and options.

    Raises:
        ConfigError: an unknown flag, or an option that Hydra would accept and gptx does not.
    """
    parser = get_args_parser()
    parser.prog = "gptx run"
    parser.error = partial(Parser.error, parser)  # type: ignore[method-assign, arg-type]
    sys.argv[1:] = sorted(sys.argv[1:], key=_is_override)
    for override in parser.parse_args(sys.argv[1:]).overrides:
        check_choice(override, sys.argv[1:])


def _is_override(argument: str) -> bool:
    return argument.startswith("~") or ("=" in argument and argument[0] != "-")


def _one_run(task: Task) -> int:
    overrides = list(HydraConfig.get().overrides.task)
    cfg = compose(overrides)
    # A dry run checks whether the run fits the launcher's machine.
    allowed = ("dry_run", "hydra.launcher") if cfg.dry_run else ("dry_run",)
    for override in filter(about_sweeps, (*overrides, *HydraConfig.get().overrides.hydra)):
        if not key_of(override).replace("/", ".").startswith(allowed):
            raise ConfigError(f"{override} is an option of a sweep: give -m, or use gptx sweep")
    _warn_of_ignored_options(cfg, overrides)
    return task(cfg, overrides)


def _warn_of_ignored_options(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Warn that the grid and the sweep options in a study's file have no effect in a single run."""
    asked = {"match": cfg.variant.match != "none", "sweep.lr": cfg.sweep.lr, "sweep.halving": cfg.sweep.halving}
    grid = [key for key in HydraConfig.get().sweeper.params if key not in map(key_of, overrides)]
    ignored = [f"sweep of {' and '.join(grid)}"] * bool(grid) + [key for key, given in asked.items() if given]
    if ignored and not cfg.runtime.brief:
        log.warning("this is one run, without the study's %s: -m or gptx sweep runs the study", ", ".join(ignored))
