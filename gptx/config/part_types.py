"""What a ``_target_`` may name: for each axis the base class of its options. It imports nothing that is named.

The bases are given by name, because importing them would import torch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gptx.config.plain_dict import PlainConfig
from gptx.errors import ConfigError

BASES = {
    "attention": "gptx.attention.base.Attention",
    "pos": "gptx.pos.base.PositionalEncoding",
    "window": "gptx.window.base.Window",
    "ffn": "gptx.ffn.base.FFN",
    "norm": "gptx.norm.base.Norm",
    "placement": "gptx.placement.base.Block",
    "kernel": "gptx.kernel.base.Kernel",
    "strategy": "gptx.strategy.base.Strategy",
    "data": "gptx.data.base.Corpus",
    "tokenizer": "gptx.tokenizer.base.Tokenizer",
    "hydra.launcher": "gptx.sweep.execute.launcher.Launcher",
    "optim": "torch.optim.optimizer.Optimizer",
}
# Axes whose options are functions, and the positional arguments with which they are called. A class is possible, too.
FUNCTIONS = {"optim": ("params",), "schedule": ("step", "max_steps")}
HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
_IGNORED_KEYS = ("_recursive_", "_convert_")  # without effect: a part has no nested parts, and gets plain containers


def is_option_of(axis: str, found: Any, target: str) -> bool:
    """Whether the object that a target names is an option of an axis; for an unknown axis, of any axis.

    A function must come from the package that the target names: ``my_module.os.system`` does not.
    """
    if not isinstance(found, type):
        package = str(getattr(found, "__module__", "")).partition(".")[0]
        return callable(found) and package == target.partition(".")[0] and (axis in FUNCTIONS or axis not in BASES)
    names = {f"{one.__module__}.{one.__qualname__}" for one in found.__mro__}
    if axis == "schedule":
        return any("__call__" in vars(one) for one in found.__mro__)
    return BASES[axis] in names if axis in BASES else not names.isdisjoint(BASES.values())


def expected(axis: str) -> str:
    """What the target of an axis must be, for messages."""
    if axis in FUNCTIONS:
        return f"a function or a class such as gptx's for {axis}"
    return f"a {BASES[axis]}" if axis in BASES else "a class of an axis of gptx"


def check_name(where: str, target: str) -> None:
    """Reject a target that does not have the form ``module.Class``.

    Raises:
        ConfigError: names the key ``where``.
    """
    if target == "None":
        raise ConfigError(f"{where}: its YAML file has no _target_, the name of a class such as mine.Mine")
    if "." not in target or not all(name.isidentifier() for name in target.split(".")):
        raise ConfigError(
            f"{where}._target_={target!r}: expected the name of a class with its module, such as mine.Mine"
        )


def constructor_keys(where: str, group: Mapping[str, Any]) -> PlainConfig:
    """The keys of a group that its constructor takes.

    Raises:
        ConfigError: a key that would make Hydra call something else than the group's own target.
    """
    if "_args_" in group or (group.get("_partial_") and where in BASES and where not in FUNCTIONS):
        key = "_args_" if "_args_" in group else "_partial_"
        raise ConfigError(f"{where}.{key}: not a key of gptx's parts; the keys are the constructor's arguments")
    keys = {key: value for key, value in group.items() if key not in ("_target_", "_partial_", *_IGNORED_KEYS)}
    for name, found in nested_targets(keys, where):
        raise ConfigError(f"{name}={found!r}: a key of a part holds numbers, text, lists or groups, not another class")
    return keys


def nested_targets(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every key of Hydra's own in nested groups and lists, with its value."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        name = f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}".lstrip(".")
        if key in HYDRA_KEYS:
            yield name, inner
        yield from nested_targets(inner, name)
