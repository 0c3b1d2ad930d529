"""The runs to which a sweep added seeds until their arms were decided (``sweep.seeds=auto``), as a file in the sweep's
folder.

A comparison that takes the number of seeds as fixed gives such runs intervals that are too narrow.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gptx.errors import ConfigError
from gptx.regular_files import open_regular
from gptx.runs.atomic_files import write_json
from gptx.runs.damaged_files import parse_json, readable
from gptx.runs.json_codec import from_json, to_json
from gptx.runs.tuning_runs import SWEEPS

NAME = "auto_seeds.json"


@dataclass(frozen=True, kw_only=True)
class AutoSeedRuns:
    """Names of run folders, as ``study/run``."""

    runs: tuple[str, ...] = ()

    def save(self, sweep: Path) -> None:
        """Write the file completely or not at all. ``sweep``: the folder of the sweep."""
        write_json(sweep / NAME, to_json(self))


def sweeps_until_decided(runs: Iterable[Path]) -> list[Path]:
    """The folders of the sweeps that added seeds to any of the run folders. A damaged file is ignored."""
    by_outputs: dict[Path, set[str]] = {}
    for run in runs:
        by_outputs.setdefault(run.parent.parent, set()).add("/".join(run.absolute().parts[-2:]))
    return [
        file.parent
        for outputs, names in by_outputs.items()
        for file in sorted((outputs / SWEEPS).glob(f"*/{NAME}"))
        if names & set(_read(file).runs)
    ]


def _read(file: Path) -> AutoSeedRuns:
    try:
        with open_regular(file) as opened, readable(file):
            return from_json(AutoSeedRuns, parse_json(opened.read()))
    except (OSError, ConfigError):
        return AutoSeedRuns()
