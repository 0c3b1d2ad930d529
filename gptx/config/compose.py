"""Compose a config from the YAML files and overrides, and check it. Does not import torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from gptx.config.check_ranges import check_ranges
from gptx.config.check_types import checked
from gptx.config.composition_errors import UNREADABLE, explain
from gptx.config.overrides import check_choice, conf_dir, own_dirs
from gptx.errors import ConfigError

Schemas = dict[tuple[str, ...], Any]  # by the chosen options


def compose(overrides: Sequence[str] = (), schemas: Schemas | None = None) -> DictConfig:
    """The checked config of a run, e.g. ``compose(["attention=gqa", "trainer.max_steps=100"])``.

    Args:
        schemas: schemas that are composed already. New ones are added, so that of many configs with the same options
            the schema is composed once.

    Raises:
        ConfigError: an unknown option or key, or a value of the wrong type or out of range; one line that says what
            would work.
    """
    schemas = {} if schemas is None else schemas
    if GlobalHydra.instance().is_initialized():  # inside the command, whose --config-dir counts too
        return _compose(overrides, schemas)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return _compose(overrides, schemas)


def _compose(overrides: Sequence[str], schemas: Schemas) -> DictConfig:
    for override in overrides:
        check_choice(override)
    try:
        cfg = hydra_compose("config", list(overrides), return_hydra_config=True)
        choices = {g: c for g, c in cfg.hydra.runtime.choices.items() if c and not g.startswith("hydra")}
        variant = {g: c for g, c in choices.items() if g != "experiment"}
        _check_names(choices)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        schema = _schema(tuple(f"{g}={c}" for g, c in variant.items()), schemas)
    except UNREADABLE as error:
        raise ConfigError(explain(error, overrides)) from None
    composed = OmegaConf.create({**checked(plain, schema), "variant": variant})
    check_ranges(composed)
    return composed


def _schema(options: tuple[str, ...], schemas: Schemas) -> Any:
    """The config with these options and no other override."""
    if options not in schemas:
        schemas[options] = OmegaConf.to_container(hydra_compose("config", list(options)), resolve=True)
    return schemas[options]


def _check_names(choices: Mapping[str, str]) -> None:
    """Reject an option that exists both in gptx and in a --config-dir: Hydra would use gptx's without a warning."""
    own = own_dirs()
    for group, option in choices.items():
        file = Path(group) / f"{option}.yaml"
        if found := [place / file for place in own if (place / file).exists() and (conf_dir() / file).exists()]:
            raise ConfigError(f"{group}={option} is an option of gptx, and {found[0]} has the same name: rename yours")
