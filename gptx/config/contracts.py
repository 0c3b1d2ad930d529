"""The contract of an axis: what an option of it must have, as the axis's base class declares it. Imports no torch.

A base class requires its abstract methods and the attributes that it annotates without a value. It may also require a
name beside another one: ``NEEDED_WITH = {"needs_fit": "fit"}`` says that an option with ``needs_fit`` overrides `fit`.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from gptx.config.part_types import BASES, FUNCTIONS
from gptx.errors import ConfigError

PAGE = "docs/contracts.md"  # describes the contracts; a test compares it with the base classes


def base_of(axis: str, made: Any) -> type | None:
    """The base class of an axis among the bases of a class; None if it has none, as a function."""
    mro = made.__mro__ if isinstance(made, type) else ()
    return next((one for one in mro if f"{one.__module__}.{one.__qualname__}" == BASES.get(axis)), None)


def required_attributes(base: type) -> tuple[str, ...]:
    """The attributes that a base class annotates without a value."""
    return tuple(name for name in inspect.get_annotations(base) if not hasattr(base, name))


def complete(where: str, made: Callable[..., Any], args: tuple[Any, ...], keys: Mapping[str, Any]) -> Any:
    """Construct an option of an axis and check that it has all that the contract requires.

    Raises:
        ConfigError: the option lacks methods or attributes; the message names all of them.
        Exception: an exception of the constructor.
    """
    base, undone, built = base_of(where, made), sorted(getattr(made, "__abstractmethods__", ())), None
    if not undone:
        built = _constructed(where, made, args, keys)
    else:
        with suppress(Exception):  # to name the attributes that it lacks, too
            built = _without_abstract_methods(made)(*args, **keys)
    lacking = [f"{name}()" for name in undone] + (_lacking(base, built) if base and built is not None else [])
    if lacking:
        raise ConfigError(_message(where, made, lacking))
    if where in FUNCTIONS:
        check_call(where, built, {})
    return built


def _constructed(where: str, made: Callable[..., Any], args: tuple[Any, ...], keys: Mapping[str, Any]) -> Any:
    try:
        return made(*args, **keys)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # no line of the class ran
            raise ConfigError(f"{where}._target_={_path(made)}: {' '.join(str(error).split())}") from None
        raise


def check_call(where: str, made: Any, keys: Mapping[str, Any]) -> None:
    """Check that a function of an axis, such as a schedule, can be called as gptx calls it.

    Raises:
        ConfigError: its signature has other arguments.
    """
    positional = FUNCTIONS[where]
    with suppress(ValueError):  # a function in C without a signature
        signature = inspect.signature(made)
        try:
            signature.bind(*positional, **keys)
        except TypeError as error:
            call = ", ".join([*positional, *(f"{key}=..." for key in keys)])
            text = f"{where}._target_={_path(made)}: {error}; gptx calls it with ({call}), see {PAGE}#{where}"
            raise ConfigError(text) from None


def _lacking(base: type, built: object) -> list[str]:
    needed = [name for name in required_attributes(base) if not hasattr(built, name)]
    for given, name in getattr(base, "NEEDED_WITH", {}).items():
        if getattr(built, given, None) and not _overrides(base, built, name):
            needed.append(f"{name} (needed with {given})")
    return needed


def _overrides(base: type, built: object, name: str) -> bool:
    inherited = getattr(base, name, None)
    found = getattr(type(built), name, None)
    return found is not inherited if inherited is not None else getattr(built, name, None) is not None


def _without_abstract_methods(made: Any) -> Any:
    """A subclass that can be constructed although methods are missing."""
    subclass = type(made)(made.__name__, (made,), {"__module__": made.__module__})
    subclass.__abstractmethods__ = frozenset()
    return subclass


def _message(where: str, made: Any, lacking: list[str]) -> str:
    names = ", ".join(lacking[:-1]) + " and " * (len(lacking) > 1) + lacking[-1]
    lacks = f"{where}._target_={_path(made)} lacks {names}: the docstring of {BASES.get(where)}"
    if "." in where:  # a launcher, which is no axis
        return f"{lacks} says what is expected"
    return f"{lacks} and {PAGE}#{where} say what is expected, and `gptx new {where} NAME` writes a complete example"


def _path(made: Any) -> str:
    named = made if hasattr(made, "__qualname__") else type(made)
    return f"{named.__module__}.{named.__qualname__}"
