"""Overrides as typed: values with characters outside Hydra's grammar are quoted, then parsed. Does not import torch.

The shell has removed the user's own quotes, so ``paths.outputs=/data/é`` and ``resume_from=outputs/mha·rope`` arrive
without any.
"""

import re
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

_BRACKETS = {"(": ")", "[": "]", "{": "}"}


@lru_cache(maxsize=2**16)
def parsed(override: str) -> Override | None:
    """An override as Hydra reads it; None if Hydra cannot. The result is shared and must not be changed."""
    found = _parse(override)
    return found if isinstance(found, Override) else None


def _parse(override: str) -> Override | HydraException:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:  # of the parser, or of its lexer
        return error


def readable(override: str) -> str:
    """The override, with quotes around a value that Hydra's grammar cannot read: ``a.b=x=y`` -> ``a.b='x=y'``.

    Commas separate values, each of which is quoted on its own, in lists too. An override that quotes do not make
    readable is returned unchanged.
    """
    key, equals, value = override.partition("=")
    if not equals or parsed(override) or _is_rejected_by_function(override):
        return override
    quoted = f"{key}={_quoted(key, value)}"
    return quoted if parsed(quoted) else override


def _is_rejected_by_function(override: str) -> bool:
    """Whether the value calls a function with wrong arguments, such as ``range(1,b)``, or one that Hydra does not have;
    ``a (1)`` is no call."""
    return "while evaluating" in str(_parse(override)) and not re.search(r"=\w* +\(", override)


def typed_value(override: str) -> str:
    """The text behind the equals sign, as typed."""
    return override.partition("=")[2]


def _quoted(key: str, value: str) -> str:
    if not value or parsed(f"{key}={value}"):
        return value
    if value[0] == "[" and value[-1] == "]":
        listed = f"[{','.join(_quoted(key, item.strip()) for item in split(value[1:-1]))}]"
        if parsed(f"{key}={listed}"):
            return listed
    items = split(value)
    if len(items) > 1:
        return ",".join(_quoted(key, item) for item in items)
    return quote(value)


def quote(value: str) -> str:
    """The value in single quotes, escaped as Hydra's grammar demands: backslashes only before a quote."""
    escaped = ""
    for i, part in enumerate(value.split("'")):
        backslashes = len(part) - len(part.rstrip("\\"))
        last = i == value.count("'")
        escaped += part + "\\" * backslashes + ("" if last else "\\'")
    return f"'{escaped}'"


def split(text: str) -> list[str]:
    """The parts of a text between its commas, except commas in brackets or quotes."""
    parts, closing, quoted = [""], [], ""
    for char in text:
        if quoted:
            quoted = "" if char == quoted else quoted
        elif char in "'\"":
            quoted = char
        elif char in _BRACKETS:
            closing.append(_BRACKETS[char])
        elif closing and char == closing[-1]:
            closing.pop()
        elif char == "," and not closing:
            parts.append("")
            continue
        parts[-1] += char
    return parts
