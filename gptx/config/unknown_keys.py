"""The error line about a key that the config does not have, with the key that was probably meant. Imports no torch."""

import difflib
from collections.abc import Iterable, Sequence

from omegaconf import OmegaConf

from gptx.config.axes import result_axes
from gptx.config.identity import NOT_RESULT
from gptx.config.overrides import conf_dir, did_you_mean

_SIMILAR = 0.75  # of a key in another group; lower values suggest words that have nothing in common


def unknown_key(given: str, keys: Iterable[str]) -> str:
    """A line about a key that does not exist. ``keys``: all that exist, dotted."""
    names, parent = list(keys), given.rpartition(".")[0]
    siblings = [_last(name) for name in names if name.rpartition(".")[0] == parent]
    listing = f" {parent or 'The top level'} has: {', '.join(siblings)}." if siblings else ""
    return f"unknown key '{given}'.{_suggestion(given, names, siblings)}{listing}"


def _suggestion(given: str, names: Sequence[str], siblings: Sequence[str]) -> str:
    """The key that was probably meant, or nothing. First come keys of the same name: of other options of the group,
    then of other groups. Keys of similar names follow. Among several, one that decides the result is preferred."""
    parent, _, key = given.rpartition(".")
    if parent and (others := _options_with(parent, key)):
        return f" It is a key of {others}."
    by_last: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name.partition(".")[0] in NOT_RESULT):
        by_last.setdefault(_last(name), name)
    if key in by_last:
        return f" Did you mean '{by_last[key]}'?"
    if similar := did_you_mean(key, siblings):
        return similar.replace("'", f"'{parent}.", 1) if parent else similar
    for axis in result_axes():
        if others := _options_with(axis, key):
            return f" {axis}.{key} is a key of {others}."
    close = difflib.get_close_matches(key, by_last, n=1, cutoff=_SIMILAR)
    return f" Did you mean '{by_last[close[0]]}'?" if close else ""


def _options_with(group: str, key: str) -> str:
    """``window=chunked, sliding``: the options of a group that have a key; empty if there are none."""
    found = [file.stem for file in sorted((conf_dir() / group).glob("*.yaml")) if key in OmegaConf.load(file)]
    return f"{group}={', '.join(found)}" if found else ""


def _last(name: str) -> str:
    return name.rpartition(".")[2]
