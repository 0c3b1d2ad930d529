"""The runs of a sweep, as its plan in ``outputs/.sweeps/<sweep>/plan.json`` lists them."""

from dataclasses import dataclass
from pathlib import Path

from gptx.runs.run_lists import read_lists

PLAN = "plan.json"
REPORT = "report"  # the folder of a sweep that holds the files of its report


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """``run``: the folder as ``study/run``; None: the combination was rejected."""

    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class SweepRuns:
    """The part of a plan that is about runs. ``command``: the command line of the sweep."""

    study: str = ""
    command: str = ""
    cells: tuple[SweepRun, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """The run folders as ``study/run``."""
        return tuple(cell.run for cell in self.cells if cell.run)


def sweep_runs(outputs: Path) -> list[tuple[Path, SweepRuns]]:
    """The folder and the runs of each sweep in ``outputs``, those that were started or repeated last at the end."""
    found = list(read_lists(outputs, PLAN, SweepRuns))
    return sorted(found, key=lambda one: ((one[0] / PLAN).lstat().st_mtime_ns, one[0].name))
