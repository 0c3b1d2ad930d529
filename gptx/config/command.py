"""The command line of ``gptx run``: Hydra parses it, gptx composes and checks the config. Does not import torch."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gptx.cli import Parser, log
from gptx.config.compose import compose
from gptx.config.composition_errors import explain, is_hydras
from gptx.config.help import help_text
from gptx.config.hydra_run import run_by_hydra
from gptx.config.key_comments import commented_yaml
from gptx.config.overrides import about_sweeps, check_choices, is_group, key_of, own_dirs
from gptx.config.own_modules import make_importable
from gptx.config.parsing import readable
from gptx.errors import ConfigError
from gptx.terminal import echo

Task = Callable[[DictConfig, list[str]], int]


@dataclass
class _CommandOutcome:
    """The exit code or exception of a task, recorded because Hydra would print its own message about an exception."""

    code: int = 0
    errors: list[Exception] = field(default_factory=list)


@dataclass(frozen=True)
class Typed:
    """The command line as typed.

    Attributes:
        arguments: ``sys.argv``, with the flags first.
        overrides: of the runs, with quotes where Hydra needs them.
        about_hydra: those about Hydra itself, such as its launcher.
    """

    arguments: list[str]
    overrides: list[str]
    about_hydra: list[str]


_TYPED: ContextVar[Typed] = ContextVar("typed")


def typed() -> Typed:
    """The command line that Hydra is working on. Hydra itself gets another one: see `_for_hydra`."""
    return _TYPED.get()


@contextmanager
def _working_on(command_line: Typed) -> Iterator[None]:
    """Within the block, which Hydra calls without arguments of ours, `typed` returns this command line."""
    token = _TYPED.set(command_line)
    try:
        yield
    finally:
        _TYPED.reset(token)


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

    def guarded(composed: DictConfig) -> None:  # the config that Hydra composed is not checked
        sys.argv = list(typed().arguments)
        if (asked := _parsed(sys.argv)).cfg == "job":
            choices = HydraConfig.get().runtime.choices
            echo(commented_yaml(composed, choices, own_dirs(), asked.package or "", asked.resolve))
            return
        try:
            outcome.code = _one_run(task)
        except Exception as error:
            outcome.errors.append(error)

    arguments = list(sys.argv)
    try:
        command_line = _check_arguments()
        arguments = command_line.arguments
        if (asked := _parsed(arguments)).help:
            echo(help_text(asked.overrides, own_dirs(arguments)))
            return 0
        sys.argv = _for_hydra(arguments)
        with _working_on(command_line):
            run_by_hydra(guarded, _parsed(sys.argv))
    except Exception as error:
        if not is_hydras(error):
            raise
        raise ConfigError(explain(error, arguments[1:])) from error
    finally:
        sys.argv = arguments
    if outcome.errors:
        raise outcome.errors[0]
    return outcome.code


def _check_arguments() -> Typed:
    """The command line with flags in front of the overrides, where Hydra's parser accepts them; rejects wrong flags and
    options.

    Raises:
        ConfigError: an unknown flag, or an option that Hydra would accept and gptx does not.
    """
    arguments = [sys.argv[0], *sorted(sys.argv[1:], key=_is_override)]
    overrides = [readable(override) for override in _parsed(arguments).overrides]
    if folders := own_dirs(arguments):
        make_importable(folders)
    check_choices(overrides, arguments[1:])
    about_hydra = [one for one in overrides if key_of(one).startswith(("hydra.", "hydra/"))]
    return Typed(arguments, [one for one in overrides if one not in about_hydra], about_hydra)


def _for_hydra(arguments: list[str]) -> list[str]:
    """The arguments that Hydra gets: overrides in quotes where necessary.

    For a sweep Hydra composes a config from the overrides that have one value, to find the sweeper and the launcher. It
    does not get ``window.size=16``, which would be an unknown key where only the options of the sweep have it.
    """
    found = _parsed(arguments)
    if found.cfg == "job":
        return [arguments[0], *_place_flags(found), *map(readable, found.overrides)]
    is_sweep = found.multirun and not (found.cfg or found.info or found.hydra_help or found.help)
    flags = [argument for argument in arguments[1:] if argument not in found.overrides]
    own = own_dirs(arguments)
    given = [readable(one) for one in found.overrides if not (is_sweep and _is_key_of_option(one, own))]
    return [arguments[0], *flags, *given]


def _place_flags(found: argparse.Namespace) -> list[str]:
    """The flags about where configs are, without those about what is printed."""
    flags = {"--config-dir": found.config_dir, "--config-name": found.config_name, "--config-path": found.config_path}
    return [word for flag, value in flags.items() if value for word in (flag, value)]


def _is_key_of_option(override: str, own: Sequence[Path]) -> bool:
    group, dot, _ = key_of(override).partition(".")
    return bool(dot) and override[0] not in "+~" and is_group(group, own) and group != "hydra"


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    parser.prog = "gptx run"
    parser.error = partial(Parser.error, parser)  # type: ignore[method-assign, arg-type]
    return parser.parse_args(arguments[1:])


def _is_override(argument: str) -> bool:
    return argument.startswith("~") or ("=" in argument and argument[0] != "-")


def _one_run(task: Task) -> int:
    overrides = typed().overrides
    cfg = compose(overrides)
    # A dry run checks whether the run fits the launcher's machine.
    allowed = ("dry_run", "hydra.launcher") if cfg.dry_run else ("dry_run",)
    for override in filter(about_sweeps, (*overrides, *typed().about_hydra)):
        if not key_of(override).replace("/", ".").startswith(allowed):
            raise ConfigError(f"{override} is an option of a sweep: give -m, or use gptx sweep")
    _warn_of_ignored_options(cfg, overrides)
    return task(cfg, overrides)


def _warn_of_ignored_options(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Warn that the grid and the sweep options in a study's file have no effect in a single run."""
    asked = {"match": cfg.variant.match != "none", "sweep.lr": cfg.sweep.lr, "sweep.halving": cfg.sweep.halving}
    asked["sweep.seeds"] = cfg.sweep.seeds
    grid = [key for key in HydraConfig.get().sweeper.params if key not in map(key_of, overrides)]
    ignored = [f"sweep of {' and '.join(grid)}"] * bool(grid) + [key for key, given in asked.items() if given]
    of_sweep = not cfg.tracking.follow  # a sweep follows its runs itself
    if ignored and not of_sweep:
        log.warning("this is one run, without the study's %s: -m or gptx sweep runs the study", ", ".join(ignored))
