"""Which runs are compared: those in the given folders, without those that only served a choice."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from gptx.compare.formatting import count
from gptx.compare.frames import curves
from gptx.compare.run_rows import RunRow, read_rows
from gptx.errors import GptxError
from gptx.runs import journal
from gptx.runs.tuning_runs import losing_runs


@dataclass(frozen=True, kw_only=True)
class FoundRuns:
    """The runs in some folders.

    Attributes:
        rows: one for each run, finished or not.
        left_out: one line for each kind of runs that were left out.
    """

    rows: tuple[RunRow, ...]
    left_out: tuple[str, ...] = ()

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The curves of all of these runs, see `gptx.compare.frames.curves`."""
        return curves(Path(row.run) for row in self.rows)


def find_runs(
    paths: Path | str | Iterable[Path | str], study: str | None = None, *, all_runs: bool = False
) -> FoundRuns:
    """Read the runs in folders. A path may be a run folder itself; such a run is never left out.

    Args:
        study: only the runs of this study.
        all_runs: also those with which a sweep chose a learning rate or an arm.

    Raises:
        GptxError: a path does not exist, or no run has this study.
    """
    runs = _by_path(paths)
    given = {run for path, inside in runs.items() if inside == [path] for run in inside}
    found = list(dict.fromkeys(run for inside in runs.values() for run in inside))
    losers = set() if all_runs else losing_runs(found) - given
    rows = _of_study(read_rows(run for run in found if run not in losers), study)
    why = "with which a sweep chose a learning rate or an arm; --all shows them"
    lines = [f"{count(len(losers), 'run')} left out {why}"]
    return FoundRuns(rows=tuple(rows), left_out=tuple(lines if losers else ()))


def run_folders(paths: Path | str | Iterable[Path | str]) -> list[Path]:
    """The run folders at or below some paths.

    Raises:
        GptxError: a path does not exist.
    """
    return list(dict.fromkeys(run for inside in _by_path(paths).values() for run in inside))


def _by_path(paths: Path | str | Iterable[Path | str]) -> dict[Path, list[Path]]:
    found: dict[Path, list[Path]] = {}
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if not path.exists():
            raise GptxError(f"the folder {path} does not exist; expected a run folder or one that contains runs")
        found[path] = list(journal.runs(path))
    return found


def _of_study(rows: list[RunRow], study: str | None) -> list[RunRow]:
    if study is None:
        return rows
    known = sorted({row.result.study for row in rows if row.result.study})
    if study in known:
        return [row for row in rows if row.result.study in (study, "")]  # "": damaged, named in a warning
    close = difflib.get_close_matches(study, known, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise GptxError(f"no study {study!r}{hint}; there are {', '.join(known) or 'none'}")
