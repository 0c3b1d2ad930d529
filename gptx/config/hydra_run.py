"""Let Hydra compose the config of a command line and call a task. Does not import torch."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import SearchPathException
from hydra.types import RunMode
from omegaconf import DictConfig

from gptx.config.overrides import conf_dir

_VERSION = "1.3"  # of Hydra's behaviour
_PLAIN = {"overrides", "config_dir"}  # flags with which a command line runs something


class _AsksForSweep(Exception):
    """The composed config has ``hydra.mode=MULTIRUN``."""


class _OneRun(Hydra):
    """Composes the config of one run once."""

    def compose_config(self, *args: Any, **keywords: Any) -> DictConfig:
        config = super().compose_config(*args, **keywords)
        if config.hydra.mode == RunMode.MULTIRUN:
            raise _AsksForSweep
        return config


def run_by_hydra(task: Callable[[DictConfig], None], flags: argparse.Namespace) -> None:
    """Do what ``sys.argv`` asks for, as ``hydra.main`` does, with ``task`` for one run.

    A run and a sweep do not use ``hydra.main``, which composes the config twice: first only to read ``hydra.mode``.

    Args:
        flags: ``sys.argv``, parsed by Hydra's parser.
    """
    defaults = vars(get_args_parser().parse_args([]))
    asked = {name for name, value in vars(flags).items() if value != defaults[name]} - _PLAIN
    if asked in (set(), {"run"}, {"multirun"}):
        try:
            _run_once(task, flags)
            return
        except _AsksForSweep:
            pass
    hydra.main(str(conf_dir()), "config", version_base=_VERSION)(task)()


def _run_once(task: Callable[[DictConfig], None], flags: argparse.Namespace) -> None:
    version.setbase(_VERSION)
    path = create_config_search_path(str(conf_dir()))
    if flags.config_dir is not None:
        own = os.path.abspath(flags.config_dir)
        if not os.path.isdir(own):
            raise SearchPathException(f"Additional config directory '{own}' not found")
        path.prepend(provider="command-line", path=f"file://{own}", anchor=SearchPathQuery(provider="schema"))
    try:
        if flags.multirun:
            overrides = [*flags.overrides, f"hydra.mode={RunMode.MULTIRUN.name}"]
            Hydra.create_main_hydra2("run", path).multirun("config", task, overrides)
        else:
            _OneRun.create_main_hydra2("run", path).run("config", task, flags.overrides)
    finally:
        GlobalHydra.instance().clear()
