"""Convert a config to nested dicts, and nested dicts to dotted keys. Does not import torch."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

# A config as nested dicts, lists and scalars. Its keys and their types are those of the YAML files.
PlainConfig = dict[str, Any]

SEEDS = ("seed", "data_seed")


def plain_dict(cfg: DictConfig | PlainConfig, complete: bool = False, resolve: bool = True) -> PlainConfig:
    """The config as nested dicts, lists and scalars. Nested dicts are returned unchanged.

    Args:
        complete: whether a missing value (``???``) is an error.
        resolve: whether interpolations are replaced by their values.
    """
    if isinstance(cfg, dict):
        return cfg
    plain = OmegaConf.to_container(cfg, resolve=resolve, throw_on_missing=complete)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def group_of(plain: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    """``plain[a][b]`` for the group ``a.b``; empty if there is no such group."""
    node: Any = plain
    for part in filter(None, group.split(".")):
        node = node.get(part, {}) if isinstance(node, Mapping) else {}
    return node if isinstance(node, Mapping) else {}


def plain_value(plain: Mapping[str, Any], group: str, name: str) -> Any:
    """``plain[a][b][name]`` for the group ``a.b``, or None if that key does not exist."""
    return group_of(plain, group).get(name)


def flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every node of nested dicts as (dotted key, value), a group before its keys."""
    for key, value in tree.items():
        name = f"{path}.{key}".lstrip(".")
        yield name, value
        if isinstance(value, dict):
            yield from flat(value, name)


def key_names(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Dotted keys of nested dicts, without Hydra's own keys such as ``_target_``."""
    return (name for name, _ in flat(tree, path) if not name.rpartition(".")[2].startswith("_"))
