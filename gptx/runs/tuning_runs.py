"""The runs with which a sweep tuned a learning rate (``sweep.lr``), as a file in the sweep's folder.

A comparison of a folder leaves out the runs at rates that were not chosen: they belong to the tuning of an arm and are
no variants of their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gptx.errors import ConfigError
from gptx.regular_files import open_regular
from gptx.runs.atomic_files import write_json
from gptx.runs.damaged_files import parse_json, readable
from gptx.runs.json_codec import from_json, to_json

NAME = "tuning.json"
SWEEPS = ".sweeps"  # the folder of all sweeps, in outputs/


@dataclass(frozen=True, kw_only=True)
class TuningRuns:
    """Names of run folders, as ``study/run``.

    Attributes:
        compared: the runs at the chosen rates.
        left_out: the runs at the other rates.
    """

    compared: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def save(self, sweep: Path) -> None:
        """Write the file completely or not at all. ``sweep``: the folder of the sweep."""
        write_json(sweep / NAME, to_json(self))


def losing_runs(runs: Iterable[Path]) -> set[Path]:
    """Those of the run folders that a sweep of the same outputs left out and no sweep chose. A damaged file is ignored:
    its runs are compared like any others."""
    found: set[Path] = set()
    by_outputs: dict[Path, list[Path]] = {}
    for run in runs:
        by_outputs.setdefault(run.absolute().parent.parent, []).append(run)
    for outputs, inside in by_outputs.items():
        records = [record for file in sorted((outputs / SWEEPS).glob(f"*/{NAME}")) if (record := _read(file))]
        losers = {name for record in records for name in record.left_out}
        losers -= {name for record in records for name in record.compared}
        found |= {run for run in inside if "/".join(run.absolute().parts[-2:]) in losers}
    return found


def _read(file: Path) -> TuningRuns | None:
    try:
        with open_regular(file) as opened, readable(file):
            return from_json(TuningRuns, parse_json(opened.read()))
    except (OSError, ConfigError):
        return None
