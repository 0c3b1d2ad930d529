"""A word of the command line: the key that it is about, and the option of a group that it takes."""

import difflib
import os
import re
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

from gptx.errors import ConfigError

PLUGINS = ("hydra/launcher", "hydra/sweeper")  # groups whose options have to be gptx's
OF_SWEEPS = ("sweep.", "match.", "dry_run.", "hydra.launcher.", "hydra.sweeper.")


def conf_dir() -> Path:
    """The YAML files: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


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
        apart = (word.split("=", 1) if word.startswith("--config-dir=") else [word] for word in words)
        flags = pairwise(chain.from_iterable(apart))
        return [Path(place).absolute() for flag, place in flags if flag in ("--config-dir", "-cd")]
    places = GlobalHydra.instance().config_loader().get_search_path().get_path()
    return [Path(place.path.removeprefix("file://")) for place in places if place.provider == "command-line"]


def check_choice(word: str, words: Sequence[str] = ()) -> None:
    """Refuse what Hydra takes as the option of a group and gptx does not. ``words``: of the whole command.

    Raises:
        ConfigError: a list, which Hydra makes one mixture of; null; a launcher or a sweeper that is not gptx's.
    """
    group, given = key_of(word), word.partition("=")[2]
    if not os.path.isdir(conf_dir() / group) or word.startswith("~") or word == "experiment=null":
        return
    if given.startswith("["):
        each = re.sub(r"[\[\] ]", "", given)
        raise ConfigError(f"{word} is a list: {group}={each} with -m runs each, and without it one of them is meant")
    own = own_dirs(words)
    if given == "null" or (group in PLUGINS and given not in options(group, own) and _stored(group, given)):
        raise ConfigError(unknown_option(group, given, own))


def _stored(group: str, given: str) -> bool:
    """Whether Hydra, or an installed plugin of it, brings such an option along."""
    Plugins.instance()  # it finds them, and they store theirs
    return f"{given}.yaml" in ConfigStore.instance().list(group)


def unknown_option(group: str, given: str, own: Sequence[Path], others: Sequence[str] = ()) -> str:
    """A line. ``others``: what Hydra has besides gptx's own, where those count."""
    known = sorted({*options(group, own), *others})
    return f"unknown option {group}={given}.{did_you_mean(given, known)} {group} is one of: {', '.join(known)}."


def did_you_mean(given: str, choices: Sequence[str]) -> str:
    """`` Did you mean 'x'?`` or nothing."""
    close = difflib.get_close_matches(given, choices, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
