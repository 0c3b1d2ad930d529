"""The runs with which a sweep chose a learning rate or an arm, as a file in the sweep's folder.

A comparison of a folder leaves these runs out: those at rates that were not chosen are no variants of their own, and
those of winners were chosen for their results.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gptx.runs.atomic_files import write_json
from gptx.runs.json_codec import to_json
from gptx.runs.run_lists import by_outputs, read_lists, run_name

NAME = "tuning.json"


@dataclass(frozen=True, kw_only=True)
class TuningRuns:
    """Names of run folders, as ``study/run``.

    Attributes:
        compared: the runs of what was chosen, with seeds that chose nothing.
        left_out: the runs on whose results the choice was made.
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
    for outputs, inside in by_outputs(runs).items():
        records = [record for _, record in read_lists(outputs, NAME, TuningRuns)]
        losers = {name for record in records for name in record.left_out}
        losers -= {name for record in records for name in record.compared}
        found |= {run for run in inside if run_name(run) in losers}
    return found
