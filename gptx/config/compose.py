"""Compose a config and check it against the YAML it came from. Never imports torch.

The YAML is the schema: a variant's file names every key it has, with a default whose type is the key's type. The same
options composed without any value make the schema; whatever the config has beyond it, or of another type, is refused.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gptx.config.overrides import PLUGINS, check_choice, conf_dir, did_you_mean, own_dirs, unknown_option
from gptx.errors import ConfigError

UNREADABLE = (HydraException, OmegaConfBaseException, YAMLError)  # what composing may raise
SMALLEST, LARGEST = 1e-30, 1e15  # of numbers in a config
OPEN = ("hydra.launcher.sbatch", "hydra.sweeper.params")  # groups that take any key
Schemas = dict[tuple[str, ...], Any]  # by the options that they are of
SEEDS = ("seed", "data_seed")  # whose whole range is meant
_GRAMMAR = "expected key=value, e.g. attention=gqa; signs in a value want quotes of their own, e.g. 'data.path=\"a=b\"'"


def compose(overrides: Sequence[str] = (), schemas: Schemas | None = None) -> DictConfig:
    """The checked config of a run, e.g. ``compose(["attention=gqa", "trainer.max_steps=100"])``.

    Args:
        schemas: those that are known, which this adds to: of many configs, each is composed once.

    Raises:
        ConfigError: an unknown option or key, or a value of the wrong type; one line that says what would work.
    """
    schemas = {} if schemas is None else schemas
    if GlobalHydra.instance().is_initialized():  # inside the command: its --config-dir counts too
        return _compose(overrides, schemas)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return _compose(overrides, schemas)


def _compose(overrides: Sequence[str], schemas: Schemas) -> DictConfig:
    for word in overrides:
        check_choice(word)
    try:
        cfg = hydra_compose("config", list(overrides), return_hydra_config=True)
        choices = {g: c for g, c in cfg.hydra.runtime.choices.items() if c and not g.startswith("hydra")}
        variant = {g: c for g, c in choices.items() if g != "experiment"}
        _check_names(choices)
        named = tuple(f"{g}={c}" for g, c in variant.items())
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        if named not in schemas:
            schemas[named] = OmegaConf.to_container(hydra_compose("config", list(named)), resolve=True)
    except UNREADABLE as error:
        raise ConfigError(explain(error, overrides)) from None
    return OmegaConf.create({**_checked(plain, schemas[named], ""), "variant": variant})


def plugin_keys(group: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The checked keys of a ``hydra/launcher`` or ``hydra/sweeper``, against gptx's own YAML of it: a cluster's profile
    has the keys of its launcher.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    ours = [OmegaConf.to_container(OmegaConf.load(path)) for path in (conf_dir() / "hydra" / group).glob("*.yaml")]
    known = next((one for one in ours if one.get("_target_") == given.get("_target_")), given)  # type: ignore[union-attr]
    checked: dict[str, Any] = _checked(given, known, f"hydra.{group}")
    return checked


def _check_names(choices: Mapping[str, str]) -> None:
    """Refuse a choice that is both gptx's own and in a --config-dir: Hydra would silently take gptx's."""
    own = own_dirs()
    for group, option in choices.items():
        file = Path(group) / f"{option}.yaml"
        if found := [place / file for place in own if (place / file).exists() and (conf_dir() / file).exists()]:
            raise ConfigError(f"{group}={option} is gptx's own, and {found[0]} another: give yours a name of its own")


def _checked(value: Any, known: Any, path: str) -> Any:
    """``value`` with every leaf as the type that ``known`` has there (1 -> 1.0, 1e3 -> 1000), or ConfigError."""
    if isinstance(known, dict) and path not in OPEN:
        if not isinstance(value, dict):
            raise ConfigError(f"{path}={value!r}: expected a group of keys: {', '.join(map(str, known))}")
        for key in value:
            if key not in known:
                raise ConfigError(_unknown_key(f"{path}.{key}".lstrip("."), _names(known, path)))
        for key in known:
            if key not in value:
                raise ConfigError(f"{f'{path}.{key}'.lstrip('.')} is missing: it cannot be deleted, only set")
        return {key: _checked(value[key], known[key], f"{path}.{key}".lstrip(".")) for key in value}
    if isinstance(known, list):
        value = [value] if isinstance(value, str) else value  # one text stands for a list of one
        if not isinstance(value, list):
            raise ConfigError(f"{path}={value!r}: expected a list such as {known}")
        return [_checked(item, known[0], f"{path}[{i}]") for i, item in enumerate(value)] if known else value
    return _as_type(value, type(known), path, known)


def _as_type(value: Any, kind: type, path: str, known: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and kind in (int, float) and path not in SEEDS:
        _check_size(value, path)
    if type(value) is kind:
        return value
    if kind is float and number:
        return float(value)
    if kind is int and number and float(value).is_integer():
        return int(value)
    if kind is str and number:
        return str(value)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise ConfigError(f"{path}={value!r}: expected {names.get(kind, kind.__name__)}, such as {json.dumps(known)}")


def _check_size(value: float, path: str) -> None:
    """Refuse what no part means and arithmetic does not survive: nan, infinities, numbers that fp32 has no room for."""
    if not (value == 0 or SMALLEST <= abs(value) <= LARGEST):  # so that nan is refused too
        raise ConfigError(f"{path}={value}: expected 0, or a number between {SMALLEST:g} and {LARGEST:g} in size")


def _names(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    return (name for name, _ in flat(tree, path) if not name.rpartition(".")[2].startswith("_"))


def _unknown_key(given: str, keys: Iterator[str]) -> str:
    names = list(keys)
    parent, _, key = given.rpartition(".")
    siblings = [n for n in names if n.rpartition(".")[0] == parent]
    elsewhere = [n for n in names if n.rpartition(".")[2] == key]
    near = did_you_mean(key, [n.rpartition(".")[2] for n in siblings])
    hint = _of_another_option(parent, key) or (f" Did you mean '{elsewhere[0]}'?" if elsewhere else "")
    hint = hint or (near.replace("'", f"'{parent}.", 1) if parent else near)
    hint = hint or ("" if siblings else did_you_mean(given, names))
    listing = ", ".join(n.rpartition(".")[2] for n in siblings)
    return f"unknown key '{given}'.{hint}" + (f" {parent or 'The top level'} has: {listing}." if listing else "")


def _of_another_option(group: str, key: str) -> str:
    """`` It is a key of window=chunked, sliding.`` or nothing."""
    files = sorted((conf_dir() / group).glob("*.yaml")) if group else []
    found = [file.stem for file in files if key in OmegaConf.load(file)]
    return f" It is a key of {group}={', '.join(found)}." if found else ""


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """Hydra's error as one line that names what was given and what would work."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, given = str(error.missing_cfg_file).rpartition("/")
        if not group:
            return f"no config named {given}: gptx has one, which needs no --config-name"
        others = error.options or [] if group.startswith("hydra/") and group not in PLUGINS else []
        return unknown_option(group, given, own_dirs(overrides), others)
    if isinstance(error, ConfigCompositionException):
        match = re.search(r"Could not (?:override|append to config|delete from config)\W+'?([\w./@-]+)'?", text)
        cause = str(error.__cause__ or "")
        key = re.search(r"full_key: ([\w.\[\]]+)", cause + text)
        if key or match:
            given = (key or match).group(1)  # type: ignore[union-attr]
            if "No match in the defaults list" in text or "is not in struct" in text + cause:
                return _unknown_key(given, _all_keys(overrides))
    for sign, what in (
        (r"Multiple values for ([\w/]+)\.", "{0} has a choice already: write {0}=..., without +"),
        (r"Ambiguous value for argument '(.+)'", "{0} is several values: -m runs each of them, [...] makes a list"),
    ):
        if found := re.search(sign, text):
            return what.format(found.group(1))
    if isinstance(error, OverrideParseException):
        found = re.search(r"while evaluating '.*': (.+)", text)  # a function in it, which says what is wrong
        return f"cannot read '{error.override}': {found.group(1) if found else _GRAMMAR}"
    lines = [line.strip() for line in text.splitlines() if line.strip() and "https://hydra.cc" not in line]
    return " ".join(lines[:2]) if lines else type(error).__name__


def _all_keys(overrides: Sequence[str]) -> Iterator[str]:
    """Every key that the config has with the options among these overrides, to suggest from."""
    own = own_dirs(overrides)
    files = [(word, f"{word.replace('=', '/', 1)}.yaml") for word in overrides]
    choices = [word for word, file in files if any((place / file).exists() for place in (conf_dir(), *own))]
    choices += [f"hydra.searchpath=['{place}']" for place in own]
    if GlobalHydra.instance().is_initialized():
        default = hydra_compose("config", choices, return_hydra_config=True)
    else:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            default = hydra_compose("config", choices, return_hydra_config=True)
    for group in ("launcher", "sweeper"):
        yield from _names(OmegaConf.to_container(default.hydra[group]), f"hydra.{group}")  # type: ignore[arg-type]
    OmegaConf.set_struct(default, False)
    del default["hydra"]
    yield from _names(OmegaConf.to_container(default, resolve=True))  # type: ignore[arg-type]


def flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every node of nested dicts as (dotted key, value), groups before their keys."""
    for key, value in tree.items():
        name = f"{path}.{key}".lstrip(".")
        yield name, value
        if isinstance(value, dict):
            yield from flat(value, name)


def plain_dict(cfg: DictConfig) -> dict[str, Any]:
    """The config as nested dicts, lists and scalars."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
