"""Parse overrides such as ``attention=gqa``: its key, and the option that it chooses. Imports no torch."""

import difflib
import os
import re
from collections.abc import Sequence
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

from gptx.config.parsing import parsed, typed_value
from gptx.errors import ConfigError

PLUGINS = ("hydra/launcher", "hydra/sweeper")  # groups whose options must be gptx's
OF_SWEEPS = ("sweep.", "match.", "dry_run.", "hydra.launcher.", "hydra.sweeper.")


@cache
def conf_dir() -> Path:
    """The folder of the YAML files: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def options(group: str, own: Sequence[Path] = ()) -> list[str]:
    """The options of a group: gptx's, and those in the user's folders (``own``)."""
    return sorted({path.stem for place in (conf_dir(), *own) for path in (place / group).glob("*.yaml")})


def option_file(group: str, option: str) -> Path:
    """The YAML file of an option: gptx's, or the user's (see `own_dirs`)."""
    files = [place / group / f"{option}.yaml" for place in (conf_dir(), *own_dirs())]
    return next((file for file in files if file.is_file()), files[0])


def key_of(override: str) -> str:
    """``trainer.max_steps`` for the override ``++trainer.max_steps=3``."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def about_sweeps(override: str) -> bool:
    """Whether an override is an option of a sweep, not of a run."""
    return f"{key_of(override)}.".replace("/", ".").startswith(OF_SWEEPS)


def own_dirs(arguments: Sequence[str] = ()) -> list[Path]:
    """The user's ``--config-dir``: from Hydra if it is initialised, else from these command-line arguments."""
    if not GlobalHydra.instance().is_initialized():
        split = (one.split("=", 1) if one.startswith("--config-dir=") else [one] for one in arguments)
        flags = pairwise(chain.from_iterable(split))
        return [Path(place).absolute() for flag, place in flags if flag in ("--config-dir", "-cd")]
    places = GlobalHydra.instance().config_loader().get_search_path().get_path()
    return [Path(place.path.removeprefix("file://")) for place in places if place.provider == "command-line"]


def check_choices(overrides: Sequence[str], arguments: Sequence[str] = ()) -> None:
    """Reject options that Hydra would accept and gptx does not have, and two options of one group.

    Args:
        arguments: all of the command line, where ``--config-dir`` may stand.

    Raises:
        ConfigError: see `check_choice`; or a group is given twice.
    """
    given: dict[str, str] = {}
    for override in overrides:
        check_choice(override, arguments)
        key = key_of(override)
        first = given.setdefault(key, override)
        if first != override and is_group(key, own_dirs(arguments)) and "{" not in first + override:
            raise ConfigError(f"{first} and {override}: only the last would count; give {key} once")


def check_choice(override: str, arguments: Sequence[str] = ()) -> None:
    """Reject an option that Hydra would accept and gptx does not have. ``arguments``: all of the command line.

    Raises:
        ConfigError: no key, or one with ``@``; a list, which Hydra would merge into one config; a number, true, false
            or null; a path to a file of another group; a launcher or a sweeper that is not gptx's.
    """
    group, text = key_of(override), typed_value(override)
    if not group:
        raise ConfigError(f"cannot read '{override}': expected key=value, e.g. attention=gqa")
    if "@" in override.partition("=")[0]:
        signs = override[: len(override) - len(override.lstrip("+~"))]
        plain = f"{signs}{group}{'=' if '=' in override else ''}{text}"
        raise ConfigError(f"cannot read '{override}': expected a key without '@', {plain}")
    own = own_dirs(arguments)
    if not is_group(group, own) or override.startswith("~") or override == "experiment=null":
        return
    if text.startswith("["):
        each = re.sub(r"[\[\] ]", "", text)
        raise ConfigError(f"{override} is a list: expected one option, or {group}={each} with -m, which runs each")
    found = parsed(override)
    if found is None or found.is_sweep_override() or isinstance(given := found.value(), dict):
        return
    outside = not isinstance(given, str) or ".." in Path(given).parts or given.startswith("/") or ".yaml" in given
    if outside or (group in PLUGINS and given not in options(group, own) and _is_hydras(group, text)):
        raise ConfigError(unknown_option(group, text, own))


def is_group(key: str, own: Sequence[Path] = ()) -> bool:
    """Whether a key is a group of options such as ``attention`` or ``hydra/launcher``. ``own``: the user's folders."""
    return any(os.path.isdir(place / key) for place in (conf_dir(), *own))  # False for an impossible name, too


def _is_hydras(group: str, given: str) -> bool:
    """Whether Hydra itself, or a plugin of it that is installed, has such an option."""
    Plugins.instance()  # loads the plugins, which register their options
    return f"{given}.yaml" in ConfigStore.instance().list(group)


def unknown_option(group: str, given: str, own: Sequence[Path], others: Sequence[str] = ()) -> str:
    """A line about an option that does not exist. ``others``: options of Hydra that are allowed too."""
    known = sorted({*options(group, own), *others})
    return f"unknown option {group}={given}.{did_you_mean(given, known)} {group} is one of: {', '.join(known)}."


def did_you_mean(given: str, choices: Sequence[str]) -> str:
    """`` Did you mean 'x'?`` for the most similar choice, or nothing."""
    close = difflib.get_close_matches(given, choices, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
