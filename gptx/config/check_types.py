"""Check a config against the YAML files it came from. Does not import torch.

The YAML is the schema: the file of an option has all its keys, each with a default whose type is the key's type. A key
that the files do not have, or a value of another type, is rejected.
"""

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from gptx.config.overrides import conf_dir
from gptx.config.plain_dict import SEEDS, PlainConfig, key_names
from gptx.config.unknown_keys import unknown_key
from gptx.errors import ConfigError

SMALLEST, LARGEST = 1e-30, 1e15  # magnitudes of numbers that fp32 arithmetic can work with
OPEN = ("hydra.launcher.sbatch", "hydra.sweeper.params")  # groups that take any key
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def checked(value: Any, schema: Any, path: str = "") -> Any:
    """Return ``value`` with every leaf converted to the type of that leaf in ``schema`` (1 -> 1.0, 1e3 -> 1000).

    Args:
        path: dotted key of the value, "" for a full config.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type.
    """
    if isinstance(schema, dict) and path not in OPEN:
        return _checked_group(value, schema, path)
    if isinstance(schema, list):
        items = [value] if isinstance(value, str) else value  # a single string is treated as a list with one item
        if not isinstance(items, list):
            raise ConfigError(f"{path}={value!r}: expected a list such as {schema}")
        return [checked(item, schema[0], f"{path}[{i}]") for i, item in enumerate(items)] if schema else items
    return _converted(value, schema, path)


def _checked_group(value: Any, schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}={value!r}: expected a group of keys: {', '.join(map(str, schema))}")
    for key in value:
        if key not in schema:
            raise ConfigError(unknown_key(f"{path}.{key}".lstrip("."), key_names(schema, path)))
    for key in schema:
        if key not in value:
            raise ConfigError(f"{f'{path}.{key}'.lstrip('.')} is missing: it cannot be deleted, only set")
    return {key: checked(value[key], schema[key], f"{path}.{key}".lstrip(".")) for key in value}


def _converted(value: Any, default: Any, path: str) -> Any:
    kind = type(default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and kind in (int, float) and path not in SEEDS:
        _check_magnitude(value, path)
    if type(value) is kind:
        return value
    if kind is float and is_number:
        return float(value)
    if kind is int and is_number and float(value).is_integer():
        return int(value)
    if kind is str and is_number:
        return str(value)
    expected = _TYPE_NAMES.get(kind, kind.__name__)
    raise ConfigError(f"{path}={value!r}: expected {expected}, such as {json.dumps(default)}")


def _check_magnitude(value: float, path: str) -> None:
    """Reject nan, infinities, and numbers that fp32 cannot represent."""
    if not (value == 0 or SMALLEST <= abs(value) <= LARGEST):  # nan fails both comparisons
        raise ConfigError(f"{path}={value}: expected 0, or a number between {SMALLEST:g} and {LARGEST:g} in size")


def plugin_keys(group: str, given: Mapping[str, Any]) -> PlainConfig:
    """The checked keys of a ``hydra/launcher`` or ``hydra/sweeper``. A cluster's profile has the keys of its launcher.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    built_in = [OmegaConf.to_container(OmegaConf.load(path)) for path in (conf_dir() / "hydra" / group).glob("*.yaml")]
    of_target = (one for one in built_in if isinstance(one, dict) and one.get("_target_") == given.get("_target_"))
    found: dict[str, Any] = checked(given, next(of_target, given), f"hydra.{group}")
    return found
