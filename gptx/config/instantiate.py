"""Build the object that a group's ``_target_`` names. Does not import torch, so that a mistake is reported quickly."""

from functools import partial
from importlib import import_module
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gptx.config.class_ids import current_target
from gptx.config.contracts import check_call, complete
from gptx.config.part_types import BASES, FUNCTIONS, check_name, constructor_keys, expected, is_option_of
from gptx.errors import ConfigError


def part(cfg: DictConfig, *args: Any) -> Any:
    """The object of a group, such as ``cfg.attention``; of an optimiser or the function of a schedule, the callable
    with its keyword arguments.

    Only an option of the group's axis is built: a subclass of the axis's base class. No other class is named in its
    keys. Lists and groups among the keys become plain lists and dicts.

    Args:
        args: positional arguments of the constructor; the group's keys are its keyword arguments.

    Raises:
        ConfigError: the target is no option of the axis, its constructor does not accept the keys, or it lacks what the
            contract of the axis requires.
        Exception: an exception of the constructor.
    """
    where = str(cfg._get_full_key(None))
    group: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    keys = constructor_keys(where, group)
    target = group.get("_target_")
    made = _located(where, target)
    if where in FUNCTIONS and (where in BASES or not isinstance(made, type)):
        check_call(where, made, keys)
    elif not group.get("_partial_"):
        return complete(where, made, args, keys)
    return partial(made, *args, **keys)


def option_class(cfg: DictConfig) -> Any:
    """The class or function that a group's ``_target_`` names.

    Raises:
        ConfigError: it is no option of the group's axis.
    """
    return _located(str(cfg._get_full_key(None)), cfg.get("_target_"))


def _located(where: str, given: Any) -> Any:
    """The class or function of a target. A class inside another class is found, too."""
    check_name(where, str(given))
    target = current_target(str(given))
    try:
        found = _imported(target)
    except Exception as error:  # importing a module of the user can raise anything
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{where}._target_={given}: {' '.join(reason.split())}") from None
    if not is_option_of(where, found, target):
        raise ConfigError(f"{where}._target_={given} is not {expected(where)}")
    return found


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if "." not in module or error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        found = _imported(module)  # perhaps a class
        if not isinstance(found, type):
            raise
    return getattr(found, name)
