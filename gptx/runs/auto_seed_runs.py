"""The runs to which a sweep added seeds until their arms were decided (``sweep.seeds=auto``), as a file in the sweep's
folder.

A comparison that takes the number of seeds as fixed gives such runs intervals that are too narrow.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gptx.runs.atomic_files import write_json
from gptx.runs.json_codec import to_json
from gptx.runs.run_lists import by_outputs, read_lists, run_name

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
    return [
        sweep
        for outputs, inside in by_outputs(runs).items()
        for sweep, record in read_lists(outputs, NAME, AutoSeedRuns)
        if not set(record.runs).isdisjoint(map(run_name, inside))
    ]
