"""Report a file whose content is not what gptx wrote. A run folder may come from somebody else."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptx.errors import ConfigError

DEEPEST = 50  # levels of objects and lists in a JSON text; gptx writes about 10
UNEXPECTED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Within the block, an error that unexpected content of a file causes is reported as one line.

    Raises:
        ConfigError: names the file.
    """
    try:
        yield
    except UNEXPECTED as error:
        raise ConfigError(f"{path} is damaged ({described(error)})") from error


def described(error: BaseException) -> str:
    """The text of an error in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return (f"no {text}" if isinstance(error, KeyError) else text or type(error).__name__)[:200]


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or has more than `DEEPEST` levels, on which recursive functions would fail.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    opened = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if opened > DEEPEST:
        _check_depth(found)
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [item for one in level for item in _items(one)]
        if not level:
            return
    raise _too_deep()


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_deep() -> ValueError:
    return ValueError(f"it has more than {DEEPEST} levels of objects and lists")
