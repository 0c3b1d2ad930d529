"""A word of the command line: the key that it is about, and the option of a group that it takes."""

import difflib
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

from gptx.errors import ConfigError

OF_SWEEPS = ("sweep.", "match.", "dry_run.", "hydra.launcher.", "hydra.sweeper.")


def conf_dir() -> Path:
    """The YAML files: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "conf"


def options(group: str, own: Sequence[Path] = ()) -> list[str]:
    """gptx's options of a group, as they lie on disk, and those of a user's own folders."""
    return sorted({path.stem for place in (conf_dir(), *own) for path in (place / group).glob("*.yaml")})


def key_of(word: str) -> str:
    """``trainer.max_steps`` of the override ``++trainer.max_steps=3``."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def about_sweeps(word: str) -> bool:
    """Whether an override is about a whole sweep, and about none of its runs."""
    return f"{key_of(word)}.".replace("/", ".").startswith(OF_SWEEPS)


def own_dirs(words: Sequence[str] = ()) -> list[Path]:
    """A user's --config-dir: by the words of a command, or Hydra's where that is at work."""
    if not GlobalHydra.instance().is_initialized():
        return [Path(place).absolute() for flag, place in pairwise(words) if flag in ("--config-dir", "-cd")]
    places = GlobalHydra.instance().config_loader().get_search_path().get_path()
    return [Path(place.path.removeprefix("file://")) for place in places if place.provider == "command-line"]


def check_choice(word: str) -> None:
    """Refuse what Hydra takes as the option of a group and gptx does not.

    Raises:
        ConfigError: a list, which Hydra makes one mixture of; null; a launcher or a sweeper that is not gptx's.
    """
    group, given = key_of(word), word.partition("=")[2]
    if not (conf_dir() / group).is_dir():
        return
    if given.startswith("["):
        each = re.sub(r"[\[\] ]", "", given)
        raise ConfigError(f"{word} is a list: {group}={each} with -m runs each, and without it one of them is meant")
    plugin = group in ("hydra/launcher", "hydra/sweeper") and bool(Plugins.instance())  # which store theirs
    if given == "null" or (plugin and f"{given}.yaml" in ConfigStore.instance().list(group)):
        raise ConfigError(unknown_option(group, given, own_dirs()))


def unknown_option(group: str, given: str, own: Sequence[Path]) -> str:
    known = options(group, own)
    return f"unknown option {group}={given}.{did_you_mean(given, known)} {group} is one of: {', '.join(known)}."


def did_you_mean(given: str, choices: Sequence[str]) -> str:
    """`` Did you mean 'x'?`` or nothing."""
    close = difflib.get_close_matches(given, choices, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
