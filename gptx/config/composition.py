"""A set of options as Hydra composes it. Does not import torch."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from gptx.config.axes import axes
from gptx.config.check_types import checked
from gptx.config.composition_errors import UNREADABLE, explain, is_hydras
from gptx.config.overrides import conf_dir, own_dirs
from gptx.config.plain_dict import PlainConfig, flat, group_of, plain_dict
from gptx.errors import ConfigError

Files = tuple[tuple[str, int], ...]  # path, time of the last change in ns


@dataclass(frozen=True)
class Composition:
    """A set of options, as Hydra composes it.

    Attributes:
        config: the config with interpolations, without Hydra's own section.
        variant: the chosen options by group.
        schema: the config with these options and no other override, as nested dicts.
        checked: the checked config, whose groups other configs share; empty if it cannot be resolved as it is.
    """

    config: DictConfig
    variant: dict[str, str]
    schema: PlainConfig
    checked: PlainConfig

    def has(self, key: str) -> bool:
        """Whether the options have a key, which may be a group."""
        group, _, name = key.rpartition(".")
        return name in group_of(self.schema, group)  # its value may be null

    def unknown(self) -> list[str]:
        """The keys that the options do not have, but the study's file sets."""
        keys = [key for key, _ in flat(plain_dict(self.config, resolve=False))]
        return [key for key in keys if not self.has(key) and (self.has(key.rpartition(".")[0]) or "." not in key)]


def composition_of(config: DictConfig, schema: PlainConfig, variant: dict[str, str]) -> Composition:
    """The composition of a config, checked as it is."""
    return Composition(config, variant, schema, _checked_as_it_is(config, schema, variant))


def composed_by_hydra(
    options: Sequence[str], schema_of: Callable[[Mapping[str, str]], PlainConfig] | None = None
) -> Composition:
    """Let Hydra compose some options.

    Args:
        schema_of: returns the schema of the chosen options. Default: the options set no values, so that the config
            is its own schema.

    Raises:
        ConfigError: Hydra cannot compose them.
    """
    try:
        config = hydra_compose("config", list(options), return_hydra_config=True)
        choices = {str(g): str(c) for g, c in config.hydra.runtime.choices.items() if c}
        choices = {group: choice for group, choice in choices.items() if not group.startswith("hydra")}
        variant = {group: choice for group, choice in choices.items() if group != "experiment"}
        _check_names(choices)
        OmegaConf.set_struct(config, False)
        del config["hydra"]
        OmegaConf.set_struct(config, True)
        schema = schema_of(variant) if schema_of else plain_dict(config)
    except Exception as error:
        if not is_hydras(error):
            raise
        raise ConfigError(explain(error, options)) from None
    return composition_of(config, schema, variant)


def default_composition() -> Composition:
    """The composition without any override. Its config may be changed: it is the caller's own copy.

    Hydra composes it once in a process, and again only after one of its files has changed.
    """
    places = GlobalHydra.instance().config_loader().get_search_path().get_path()
    found = _default(tuple((str(place.provider), str(place.path)) for place in places), _default_files())
    return replace(found, config=copy.deepcopy(found.config))


@lru_cache(maxsize=1)
def _default(places: tuple[tuple[str, str], ...], files: Files) -> Composition:
    """The arguments are all that it depends on."""
    return composed_by_hydra(())


def _default_files() -> Files:
    """The YAML files of the default config. Hydra reports one that is missing."""
    names = ["config.yaml", *(f"{axis.name}/{axis.default}.yaml" for axis in axes() if axis.default != "None")]
    paths = [os.path.join(conf_dir(), name) for name in names]
    return tuple((path, os.stat(path).st_mtime_ns if os.path.exists(path) else 0) for path in paths)


def _checked_as_it_is(config: DictConfig, schema: PlainConfig, variant: dict[str, str]) -> PlainConfig:
    try:
        return {**checked(plain_dict(config, complete=True), schema), "variant": variant}
    except (*UNREADABLE, ConfigError):  # a value that an override sets is missing or wrong
        return {}


def _check_names(choices: Mapping[str, str]) -> None:
    """Reject an option that exists both in gptx and in a --config-dir: Hydra would use gptx's without a warning."""
    own = own_dirs()
    for group, option in choices.items():
        file = Path(group) / f"{option}.yaml"
        if found := [place / file for place in own if (place / file).exists() and (conf_dir() / file).exists()]:
            raise ConfigError(f"{group}={option} is an option of gptx, and {found[0]} has the same name: rename yours")
