"""Convert frozen dataclasses to JSON objects and back; keys that one side does not have are ignored."""

import dataclasses
import sys
import types
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Convert = Callable[[Any], Any]


def to_json(value: Any) -> Any:
    """A dataclass as a JSON object; a field is named by its metadata's ``key``, if it has one."""
    if dataclasses.is_dataclass(value):
        return {_key(field): to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(cls: type[T], data: Any) -> T:
    """Read a dataclass. Unknown keys are ignored; a field with a default may be missing or have another type.

    Raises:
        ValueError: ``data`` is not an object, or lacks a field that has no default.
    """
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, found {data!r}"[:80])
    found = {}
    for name, key, convert, required in _fields(cls):  # type: ignore[arg-type]
        try:
            found[name] = convert(data[key])
        except (KeyError, TypeError, ValueError) as error:
            if required:
                reason = f"no {key}" if isinstance(error, KeyError) else f"{key}={data[key]!r}"
                raise ValueError(f"a {cls.__name__} with {reason}"[:200]) from error
    return cls(**found)


@cache
def _fields(cls: type) -> list[tuple[str, str, Convert, bool]]:
    """The fields of a dataclass: name, key in the file, converter, and whether the field is required."""
    hints = get_type_hints(cls)
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    return [
        (field.name, _key(field), _converter(hints[field.name]), field.default is field.default_factory is missing)
        for field in fields
    ]


def _key(field: "dataclasses.Field[Any]") -> str:
    return str(field.metadata.get("key", field.name))


def _converter(hint: Any) -> Convert:
    """The function that reads a value of a type, or raises TypeError or ValueError."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (Union, types.UnionType):
        [inner] = [_converter(arg) for arg in args if arg is not type(None)]
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(hint):
        return lambda value: from_json(hint, value)  # type: ignore[arg-type]
    if origin is dict and args[1] is float:
        return _numbers
    if origin is dict:
        item = _converter(args[1])
        return lambda value: {str(key): item(one) for key, one in _checked(dict, value).items()}
    if origin is tuple:
        item = _converter(args[0])
        return lambda value: tuple(item(one) for one in _checked(list, value))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    if hint is float:
        return _number
    return lambda value: _checked(hint, value, allow_bool=hint is bool)


def _numbers(value: Any) -> dict[str, Any]:
    """The values of a metrics record. Most have floats only, which are quick to check: a sweep has millions."""
    found = _checked(dict, value)
    if set(map(type, found.values())) <= {float}:
        return dict(found)
    return {str(key): _number(one) for key, one in found.items()}


def _number(value: Any) -> Any:
    found = _checked((int, float), value)
    if isinstance(found, int) and abs(found) > sys.float_info.max:
        raise ValueError("an integer that is too large for a float")
    return found


def _checked(kind: Any, value: Any, allow_bool: bool = False) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and not allow_bool):
        raise TypeError(f"{value!r} is not of the type {kind}")
    return value
