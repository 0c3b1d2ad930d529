"""One row for each run folder: its status, its config and its metrics, from result.json or from the journal."""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gptx.config.identity import NOT_RESULT, result_keys
from gptx.errors import ConfigError
from gptx.runs import journal
from gptx.runs.damaged_files import UNEXPECTED, described, readable
from gptx.runs.metrics import CURVES, METRICS, Metric
from gptx.runs.records import (
    EndRecord,
    MetricsRecord,
    Result,
    ResumeRecord,
    RunEndReason,
    RunStatus,
    StartRecord,
    read_result,
    result_of,
)

RowStatus = RunStatus | Literal["damaged", "missing"]  # damaged: unreadable files; missing: no record
FACTS = ("uid", "identity", "name", "study", "corpus_hash", "tokenizer_hash", "dtype")  # fields of a result
_SEEDS = {"seed", "data_seed"}
_EMPTY = Result(status=RunStatus.KILLED)  # of a folder without readable files


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run.

    Attributes:
        run: the run folder.
        problem: what is wrong with its files; empty if they are intact.
        written: modification time of result.json or the journal, in seconds.
        variant: {axis: option}.
        config: {dotted key: value} of all keys that decide the result, without the seeds.
        metrics: {key of `gptx.runs.metrics.METRICS`: value}; NaN if it was not measured or is not finite.
        steps: 0 if unknown.
        tokens: NaN if unknown.
    """

    run: str
    status: RowStatus
    problem: str
    written: float
    result: Result
    variant: dict[str, str]
    config: dict[str, Any]
    seed: int
    data_seed: int
    metrics: dict[str, float]
    steps: float
    tokens: float

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.result.hardware.device

    @property
    def hardware(self) -> str:
        """The machine, such as ``cpu, AMD EPYC, 2 cores``."""
        hardware = self.result.hardware
        cores = f"{hardware.cores} cores" if hardware.cores else ""
        return ", ".join(filter(None, (hardware.device, hardware.cpu, cores)))

    @property
    def threads(self) -> int:
        """CPU threads per process; 0 on other devices, or if unknown."""
        return self.result.threads if self.device == "cpu" else 0

    @property
    def other_runs(self) -> int:
        """The largest number of other runs on the machine while this run was measured; 0 if unknown."""
        return self.result.other_runs or 0

    @property
    def finished(self) -> bool:
        return self.status == RunStatus.FINISHED

    @property
    def diverged(self) -> bool:
        """Whether training failed because a loss or gradients were not finite, or finished without a finite loss."""
        lost = self.finished and math.isnan(self.metrics["val_loss"])
        return lost or self.result.end_reason is RunEndReason.DIVERGED

    def measures(self, metric: Metric) -> bool:
        """Whether the run has a finite value of this metric."""
        return not math.isnan(self.metrics[metric.key])

    @property
    def seed_label(self) -> int | str:
        """The seed, or "seed/data_seed" if they differ."""
        return self.seed if self.seed == self.data_seed else f"{self.seed}/{self.data_seed}"

    def value(self, name: str) -> Any:
        """The option of an axis, the value of a config key, or a fact such as ``corpus_hash``; else None."""
        fact = str(getattr(self.result, name) or "") if name in FACTS else None
        return self.variant.get(name, self.config.get(name, fact))

    def key(self, without: str = "") -> str:
        """Equal for runs of one variant. With ``without``, equal for runs that differ in this axis only."""
        config = {k: v for k, v in self.config.items() if k.split(".")[0] != without}
        variant = {k: v for k, v in self.variant.items() if k != without}
        return frozen([config, variant, self.result.corpus_hash])


def read_rows(run_dirs: Iterable[Path]) -> list[RunRow]:
    """One row for each run folder, finished or not, sorted by path. Damaged folders get a row with a problem."""
    folders = {Path(run).resolve(): Path(run) for run in run_dirs}
    return sorted((_row_or_problem(folder) for folder in folders.values()), key=lambda row: row.run)


def _row_or_problem(folder: Path) -> RunRow:
    try:
        with readable(folder):
            return row_of(folder, *_result(folder))
    except (ConfigError, OSError) as error:  # such as a symbolic link
        return row_of(folder, "damaged", _EMPTY, f"{error}: skipped")


def row_of(folder: Path, status: RowStatus, result: Result, problem: str) -> RunRow:
    """The row of a run with this result; ``folder``: where it is or was."""
    config = {key: value for key, value in result_keys(result.config, result.revisions).items() if key not in _SEEDS}
    if source := result.resume_source:
        config["resume_from"] = f"{source.identity}@{source.step}"
    seed = _int_or(result.seed, _int_or(result.config.get("seed"), 0))
    return RunRow(
        run=str(folder),
        status=status,
        problem=problem,
        written=_written(folder),
        result=result,
        variant={k: str(v) for k, v in result.variant.items() if k not in NOT_RESULT},
        config=config,
        seed=seed,
        data_seed=_int_or(result.config.get("data_seed"), seed),
        metrics={metric.key: _finite(getattr(result, metric.key)) for metric in METRICS},
        steps=_finite(result.steps),
        tokens=_finite(result.tokens),
    )


def _result(folder: Path) -> tuple[RowStatus, Result, str]:
    """Status, result and problem. A finished result.json is final; otherwise the journal decides."""
    problem = ""
    try:
        result = read_result(folder / "result.json")
        if result.status == RunStatus.FINISHED:
            return result.status, result, ""
    except FileNotFoundError:
        pass
    except (OSError, *UNEXPECTED) as error:
        problem = f"{folder / 'result.json'} is damaged ({described(error)})"
    try:
        status, result = _from_journal(folder)
    except (OSError, *UNEXPECTED) as error:
        return "damaged", _EMPTY, f"{folder / journal.NAME} is damaged ({described(error)}): skipped"
    if not problem:
        return status, result, ""
    if status == RunStatus.FINISHED:
        return status, result, f"{problem}: its metrics are read from the journal"
    return "damaged", result, f"{problem}: skipped"


def _from_journal(folder: Path) -> tuple[RowStatus, Result]:
    """The result in the end record, or else the start record with the last point of each curve."""
    start: StartRecord | None = None
    end: EndRecord | None = None
    values: dict[str, float] = {}
    steps = 0
    for record in journal.read(folder):
        if isinstance(record, StartRecord):
            start = record
        elif isinstance(record, MetricsRecord):
            values |= record.values
            steps = record.step
        elif isinstance(record, EndRecord) and record.status == RunStatus.FINISHED and record.result:
            return RunStatus.FINISHED, record.result
        if isinstance(record, StartRecord | ResumeRecord | EndRecord):
            end = record if isinstance(record, EndRecord) else None
    if start is None:
        return "missing", _EMPTY
    curves = {key: values.get(name) for key, name in CURVES.items()}
    status = journal.status(folder)
    ended = {"end_reason": end.end_reason, "error": end.error} if end else {}
    return status, result_of(start, status=status, steps=steps, **ended, **curves)


def selected(rows: Iterable[RunRow], *, include_unfinished: bool = False) -> list[RunRow]:
    """The rows that are compared: finished runs, and of several runs of one variant and seed the newest."""
    newest: dict[tuple[str, str, int | str], RunRow] = {}
    for row in sorted(rows, key=lambda row: (row.written, row.run)):
        readable = row.status not in ("damaged", "missing")
        if row.finished or (include_unfinished and readable):
            newest[row.key(), row.status, row.seed_label] = row
    return sorted(newest.values(), key=lambda row: row.run)


def status_counts(rows: Iterable[RunRow]) -> dict[str, int]:
    """{status: number of runs}, finished ones first."""
    found = Counter(str(row.status) for row in rows)
    return {status: found[status] for status in sorted(found, key=lambda s: (s != RunStatus.FINISHED, s))}


def unfinished(rows: Iterable[RunRow]) -> str:
    """The unfinished runs by status, such as "2 failed, 1 running"."""
    return ", ".join(f"{n} {status}" for status, n in status_counts(rows).items() if status != "finished")


def frozen(value: Any) -> str:
    """A hashable form of a config value."""
    return json.dumps(value, sort_keys=True, default=str)


def _finite(value: Any) -> float:
    """The value, or NaN if it is missing or not finite."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if good else math.nan


def _int_or(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _written(folder: Path) -> float:
    for name in ("result.json", journal.NAME):
        if (folder / name).exists():
            return (folder / name).lstat().st_mtime
    return 0.0
