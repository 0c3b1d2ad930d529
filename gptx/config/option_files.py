"""The YAML files of options, where nothing but the file decides what an option is. Does not import torch."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf

from gptx.config.axes import axes
from gptx.config.overrides import conf_dir, key_of, own_dirs
from gptx.config.parsing import parsed


def option_files(options: Sequence[str]) -> dict[str, tuple[str, DictConfig]]:
    """By axis the name and the file of every chosen option; empty if one is not an option of gptx of which no more than
    its file is known to matter."""
    found: dict[str, tuple[str, DictConfig]] = {}
    names, own = {axis.name for axis in axes()} - {"experiment"}, own_dirs()
    for override in options:
        one, axis = parsed(override), key_of(override)
        plain = one is not None and one.type is OverrideType.CHANGE and one.package is None and axis in names
        choice = one.value() if one and plain else None
        if not isinstance(choice, str) or axis in found:
            return {}
        path = Path(axis) / f"{choice}.yaml"
        file = None if any((place / path).exists() for place in own) else _file(conf_dir() / path)
        if file is None:
            return {}
        found[axis] = choice, file
    return found


@cache
def _file(path: Path) -> DictConfig | None:
    """The YAML file of an option; None if it does not exist, or has defaults or a package, which Hydra must apply."""
    if not path.is_file() or "@package" in path.read_text(encoding="utf-8"):
        return None
    file = OmegaConf.load(path)
    return file if isinstance(file, DictConfig) and "defaults" not in file else None
