"""Lists of runs that a sweep writes as JSON files in its folder, ``outputs/.sweeps/<sweep>/``."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from gptx.errors import ConfigError
from gptx.regular_files import open_regular
from gptx.runs.damaged_files import parse_json, readable
from gptx.runs.json_codec import from_json

SWEEPS = ".sweeps"  # the folder of all sweeps, in outputs/
T = TypeVar("T")


def run_name(run: Path) -> str:
    """A run folder as ``study/run``."""
    return "/".join(_normal(run).parts[-2:])


def _normal(path: Path) -> Path:
    """An absolute path without ``..``; links stay as they are."""
    return Path(os.path.abspath(path))


def by_outputs(runs: Iterable[Path]) -> dict[Path, list[Path]]:
    """The run folders by their outputs folder, in whatever spelling they are given. The path of an outputs folder is
    relative if that of its first run is."""
    shown: dict[Path, Path] = {}
    found: dict[Path, list[Path]] = {}
    for run in runs:
        outputs = _normal(run).parent.parent
        relative = outputs if run.is_absolute() else Path(os.path.relpath(outputs))
        found.setdefault(shown.setdefault(outputs, relative), []).append(run)
    return found


def read_lists(outputs: Path, name: str, kind: type[T]) -> Iterator[tuple[Path, T]]:
    """The folder and the record of each sweep in ``outputs`` that has the file ``name``. Damaged files are skipped."""
    for file in sorted((outputs / SWEEPS).glob(f"*/{name}")):
        try:
            with open_regular(file) as opened, readable(file):
                yield file.parent, from_json(kind, parse_json(opened.read()))
        except (OSError, ConfigError):
            continue
