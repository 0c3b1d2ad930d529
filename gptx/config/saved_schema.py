"""Check the config that a run folder has saved against today's YAML files. Does not import torch.

A class of the user's own has no YAML file here: of its keys only the values are known to be plain.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gptx.config.axes import axes
from gptx.config.check_ranges import check_ranges
from gptx.config.check_types import checked
from gptx.config.class_ids import current_target
from gptx.config.identity import NOT_RESULT
from gptx.config.overrides import conf_dir, options
from gptx.config.plain_dict import PlainConfig, plain_dict
from gptx.errors import ConfigError

_NO_FILE = ("experiment", "match")  # axes whose options are no groups of keys of a run
_LISTS = {"data.path": [""]}  # of text; its default is empty


def check_saved(plain: PlainConfig) -> PlainConfig:
    """The config with each value converted to the type that its key has in the YAML files.

    A key that does not change the result may be missing, since it gets today's default, and unknown, since an earlier
    version may have had it.

    Raises:
        ConfigError: another key is missing or unknown, or a value has the wrong type or is out of range.
    """
    found = {**plain, **_checked_group(plain, _base(), "")}
    if not all(isinstance(option, str) for option in found["variant"].values()):
        raise ConfigError(f"variant={found['variant']!r}: expected the name of an option for each axis")
    for axis in (axis for axis in axes() if axis.name not in _NO_FILE):
        group = found.get(axis.name, {})
        if not isinstance(group, Mapping):
            raise ConfigError(f"{axis.name}={group!r}: expected a group of keys")
        schema = _schema(axis.name, str(group.get("_target_", "")), found["variant"].get(axis.name, axis.default))
        found[axis.name] = _checked_group(group, schema, axis.name) if schema else group
    check_ranges(found)
    return found


def _checked_group(given: Mapping[str, Any], schema: PlainConfig, path: str) -> PlainConfig:
    """The checked keys of a group; ``path``: its dotted key, "" for the top level."""
    result: PlainConfig = {}
    for key, default in schema.items():
        name = f"{path}.{key}".lstrip(".")
        if key not in given:
            if name.partition(".")[0] not in NOT_RESULT:
                raise ConfigError(f"{name} is missing")
            result[key] = default
        elif not isinstance(default, dict):
            result[key] = checked(given[key], default, name)
        elif not isinstance(given[key], Mapping):
            raise ConfigError(f"{name}={given[key]!r}: expected a group of keys")
        else:
            result[key] = _checked_group(given[key], default, name) if default else dict(given[key])
    unknown = [key for key in given if key not in schema]
    if path and unknown and path.partition(".")[0] not in NOT_RESULT:
        raise ConfigError(f"unknown key '{path}.{unknown[0]}'")
    return result


@cache
def _base() -> PlainConfig:
    """The keys of ``config.yaml`` with their defaults, and a group for the names of the options."""
    base = OmegaConf.load(conf_dir() / "config.yaml")
    assert isinstance(base, DictConfig)
    for name in ("defaults", "hydra"):
        del base[name]
    return plain_dict(base) | {"variant": {}}


def _schema(axis: str, target: str, option: str) -> PlainConfig:
    """The keys of the options of an axis that have this target; empty if there is none.

    Args:
        target: "" for an axis whose options have no class.
        option: the one that is probably meant. All options of a target have the same keys.
    """
    known = options(axis)
    for name in sorted(known, key=lambda name: name != option):
        group = _group(axis, name)
        if current_target(str(group.get("_target_", ""))) == target:
            return group
    return {}


@cache
def _group(axis: str, option: str) -> PlainConfig:
    """The keys of an option with their defaults. Those that refer to another key get the value of today's default."""
    file = OmegaConf.load(conf_dir() / axis / f"{option}.yaml")
    model = OmegaConf.load(conf_dir() / "model" / "nano.yaml")
    group: PlainConfig = plain_dict(OmegaConf.create({**_base(), "model": model, axis: file}))[axis]
    return {key: value if value != [] else _LISTS.get(f"{axis}.{key}", []) for key, value in group.items()}
