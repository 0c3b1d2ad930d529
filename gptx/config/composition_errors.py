"""Errors of Hydra, OmegaConf and YAML as one line that names what was given and what would work. Imports no torch."""

import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import Mark, MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from gptx.config.overrides import PLUGINS, conf_dir, own_dirs, unknown_option
from gptx.config.plain_dict import key_names
from gptx.config.unknown_keys import unknown_key

UNREADABLE = (HydraException, OmegaConfBaseException, YAMLError)  # what composing a config can raise
_GRAMMAR = "expected key=value, e.g. attention=gqa; quote a value with special characters: 'data.path=\"a=b\"'"
_PATTERNS = (
    (r"Interpolation key '(.+)' not found\s+full_key: ([\w.]+)", "{1}=${{{0}}}: the config has no key {0}"),
    (
        r"Unsupported item value in defaults : (\w+)",
        "a defaults list has a value that YAML does not read as text but as {0}: write it in quotes, e.g. "
        '- override /tracking: "off"',
    ),
    (r"Config group (?:override|override deletion value) must be (a string)", "an option is chosen by its name: {0}"),
    (r"Multiple values for ([\w/]+)\.", "{0} has a choice already: write {0}=..., without +"),
    (r"Ambiguous value for argument '(.+)'", "{0} is several values: -m runs each of them, [...] makes a list"),
)


def is_hydras(error: BaseException) -> bool:
    """Whether an error says that a config cannot be composed: Hydra also raises ValueError and others for that."""
    if isinstance(error, UNREADABLE):
        return True
    if isinstance(error, OSError):  # Hydra prints the help, perhaps to a closed pipe
        return False
    frames = traceback.walk_tb(error.__traceback__)
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames]
    raised_by = packages if isinstance(error, UnicodeDecodeError) else packages[-1:]  # Python's decoder raises it
    return not {"hydra", "omegaconf", "antlr4", "yaml"}.isdisjoint(raised_by)


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """One line for an error of `UNREADABLE`. ``overrides``: those that were being composed."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_file(error, overrides)
    if isinstance(error, ConfigCompositionException) and (key := _rejected_key(error)):
        return unknown_key(key, _all_keys(overrides))
    if isinstance(error, YAMLError):
        return yaml_error(error)
    if isinstance(error, UnicodeDecodeError):
        return f"{_undecodable(own_dirs(overrides))} is not encoded as UTF-8: {error.reason} at byte {error.start}"
    text = str(error)
    for pattern, line in _PATTERNS:
        if found := re.search(pattern, text):
            return line.format(*found.groups())
    if isinstance(error, OverrideParseException):
        found = re.search(r"while evaluating '.*': (.+)", text)  # what a function in the override reported
        return f"cannot read '{error.override}': {found.group(1) if found else _GRAMMAR}"
    if named := re.search(r"\A(.+?)\s*\n\s*full_key: (\S+)", text):  # an error of OmegaConf
        return f"{named.group(2)}: {' '.join(named.group(1).split())}"
    lines = [line.strip() for line in text.splitlines() if line.strip() and "https://hydra.cc" not in line]
    return " ".join(lines[:2]) if lines else type(error).__name__


def yaml_error(error: YAMLError) -> str:
    """One line for a YAML file that cannot be read: the file, the line, and what the parser found."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark, context = error.problem_mark, f" ({error.context})" if error.context else ""
        return f"{_file(mark)}line {mark.line + 1}, column {mark.column + 1}: {error.problem}{context}"
    if isinstance(error, ReaderError):
        return f"{error.name}: {error.reason}: {error.character!r} at position {error.position}"
    return " ".join(str(error).split())


def _file(mark: Mark) -> str:
    """The file of a position; empty for a text."""
    return "" if mark.name.startswith("<") else f"{mark.name}, "


def _undecodable(places: Sequence[Path]) -> str:
    """The first YAML file in some folders that is not encoded as UTF-8."""
    for file in (file for place in places for file in sorted(place.rglob("*.yaml"))):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return str(file)
    return "a YAML file"


def _missing_file(error: MissingConfigException, overrides: Sequence[str]) -> str:
    group, _, given = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"no config named {given}: gptx has one, which needs no --config-name"
    others = error.options or [] if group.startswith("hydra/") and group not in PLUGINS else []
    return unknown_option(group, given, own_dirs(overrides), others)


def _rejected_key(error: ConfigCompositionException) -> str | None:
    """The key that the config does not have, or None if the error has another cause."""
    text, cause = str(error), str(error.__cause__ or "")
    named = re.search(r"Could not (?:override|append to config|delete from config)\W+'?([\w./@-]+)'?", text)
    found = re.search(r"full_key: ([\w.\[\]]+)", cause + text) or named
    unknown = "No match in the defaults list" in text or "is not in struct" in text + cause
    return found.group(1) if found and unknown else None


def _all_keys(overrides: Sequence[str]) -> Iterator[str]:
    """Every key of the config with the options among these overrides, to suggest from."""
    own = own_dirs(overrides)
    files = [(override, f"{override.replace('=', '/', 1)}.yaml") for override in overrides]
    choices = [override for override, file in files if any((place / file).exists() for place in (conf_dir(), *own))]
    choices += [f"hydra.searchpath=['{place}']" for place in own]
    if GlobalHydra.instance().is_initialized():
        default = hydra_compose("config", choices, return_hydra_config=True)
    else:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            default = hydra_compose("config", choices, return_hydra_config=True)
    for group in ("launcher", "sweeper"):
        yield from _key_names(default.hydra[group], f"hydra.{group}")
    OmegaConf.set_struct(default, False)
    del default["hydra"]
    yield from _key_names(default)


def _key_names(cfg: DictConfig, path: str = "") -> Iterator[str]:
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return key_names({str(key): value for key, value in plain.items()}, path)
