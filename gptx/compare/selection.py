"""Which runs are compared: those in the given folders, without those that only served a choice.

A folder holds run folders, or the tables of runs that `gptx.compare.saved_tables` wrote.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from gptx.compare.comparability import added_seeds
from gptx.compare.formatting import count
from gptx.compare.frames import curves
from gptx.compare.run_rows import RunRow, read_rows, selected
from gptx.compare.saved_tables import SavedRuns, is_saved, read_saved
from gptx.errors import ConfigError, GptxError
from gptx.runs import journal
from gptx.runs.tuning_runs import losing_runs
from gptx.runs.unit_losses import UnitLosses, read_unit_losses


@dataclass(frozen=True, kw_only=True)
class FoundRuns:
    """The runs in some folders.

    Attributes:
        rows: one for each run, finished or not.
        left_out: one line for each kind of runs that were left out.
        saved: the tables from which some of the rows come.
    """

    rows: tuple[RunRow, ...]
    left_out: tuple[str, ...] = ()
    saved: tuple[SavedRuns, ...] = ()

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The curves of all of these runs, see `gptx.compare.frames.curves`."""
        known = {row.run for saved in self.saved for row in saved.rows}
        kept = {row.run for row in self.rows}
        parts = [curves(Path(row.run) for row in self.rows if row.run not in known)]
        parts += [one.curves[one.curves["run"].isin(kept)] for one in self.saved]
        return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)

    @cached_property
    def _curves_by_run(self) -> dict[str, pd.DataFrame]:
        return {str(run): frame for run, frame in self.curves.groupby("run", sort=False)}

    def curves_of(self, run: str) -> pd.DataFrame:
        """Those of one run."""
        return self._curves_by_run.get(run, self.curves[:0])

    def unit_losses(self, run: str) -> UnitLosses | None:
        """The losses of the units of the validation text at the end of a run; None if they are not known."""
        for saved in self.saved:
            if run in saved.units:
                return saved.units[run]
        try:
            return read_unit_losses(Path(run))
        except (OSError, ConfigError, ValueError):
            return None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What tables say about their runs that cannot be seen in the rows."""
        return tuple(line for saved in self.saved for line in saved.warnings)

    def tables(self) -> SavedRuns:
        """The runs as tables to be saved."""
        units = {row.run: found for row in self.rows if (found := self.unit_losses(row.run))}
        warnings = (*self.warnings, *added_seeds(selected(self.rows)))
        return SavedRuns(rows=self.rows, curves=self.curves, units=units, left_out=self.left_out, warnings=warnings)


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
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    saved = tuple(read_saved(path) for path in given if is_saved(path))
    runs = {path: _runs_in(path) for path in given if not is_saved(path)}
    single = {run for path, inside in runs.items() if inside == [path] for run in inside}
    found = list(dict.fromkeys(run for inside in runs.values() for run in inside))
    losers = set() if all_runs else losing_runs(found) - single
    rows = [*read_rows(run for run in found if run not in losers), *(row for one in saved for row in one.rows)]
    why = "with which a sweep chose a learning rate or an arm; --all shows them"
    lines = [f"{count(len(losers), 'run')} left out {why}"]
    left_out = (*(lines if losers else ()), *(line for one in saved for line in one.left_out))
    return FoundRuns(rows=tuple(_of_study(rows, study)), left_out=left_out, saved=saved)


def _runs_in(path: Path) -> list[Path]:
    if not path.exists():
        raise GptxError(f"the folder {path} does not exist; expected a run folder or one that contains runs")
    return list(journal.runs(path))


def _of_study(rows: list[RunRow], study: str | None) -> list[RunRow]:
    if study is None:
        return rows
    known = sorted({row.result.study for row in rows if row.result.study})
    if study in known:
        return [row for row in rows if row.result.study in (study, "")]  # "": damaged, named in a warning
    close = difflib.get_close_matches(study, known, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise GptxError(f"no study {study!r}{hint}; there are {', '.join(known) or 'none'}")
