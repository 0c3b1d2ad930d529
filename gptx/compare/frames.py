"""Runs as pandas frames: one row for each run, and the curves of their journals in long form."""

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from gptx.compare.run_rows import RunRow
from gptx.compare.summary import distinguishing_keys
from gptx.runs import journal
from gptx.runs.damaged_files import UNEXPECTED
from gptx.runs.metrics import METRICS
from gptx.runs.records import MetricsRecord, Record, ResumeRecord, StartRecord

_FACTS = ("dtype", "corpus_hash", "tokenizer_hash", "identity")
CURVE_COLUMNS = ("run", "step", "tokens", "seconds", "metric", "value")


def results(rows: Iterable[RunRow], *, all_keys: bool = False) -> pd.DataFrame:
    """One row for each run.

    Columns: ``run`` (its folder), ``name``, ``study``, ``status``, ``seed``, ``data_seed``, every axis, the config keys
    that differ (those that differ between options only with ``all_keys``), the metrics of `gptx.runs.metrics` in their
    units, ``steps``, ``tokens``, ``device``, ``hardware``, ``processes``, ``threads`` (of a process), ``other_runs``
    (on the machine), ``dtype``, and the hashes of corpus, tokenizer and config. What was not measured is NaN.
    """
    rows = list(rows)
    axes = sorted({axis for row in rows for axis in row.variant})
    keys = [key for key in distinguishing_keys(rows, all_keys=all_keys) if key not in (*axes, *_FACTS)]
    metrics = [metric.key for metric in METRICS]
    head = ("run", "name", "study", "status", "seed", "data_seed")
    machine = ("device", "hardware", "processes", "threads", "other_runs")
    columns = [*head, *axes, *keys, *metrics, "steps", "tokens", *machine, *_FACTS]
    frame = pd.DataFrame([_values(row, [*axes, *keys]) for row in rows], columns=columns, dtype=object)
    numbers = dict.fromkeys((*metrics, "steps", "tokens"), float)
    return frame.astype(numbers | dict.fromkeys(("seed", "data_seed", *machine[2:]), int))


def _values(row: RunRow, names: list[str]) -> dict[str, object]:
    facts = {name: row.value(name) for name in _FACTS}
    return {
        **{"run": row.run, "name": row.result.name, "study": row.result.study, "status": str(row.status)},
        **{"seed": row.seed, "data_seed": row.data_seed},
        **{name: row.value(name) for name in names},
        **row.metrics,
        **{"steps": row.steps, "tokens": row.tokens, "device": row.device, "hardware": row.hardware},
        **{"processes": row.result.processes, "threads": row.threads, "other_runs": row.other_runs, **facts},
    }


def curves(run_dirs: Iterable[Path]) -> pd.DataFrame:
    """The curves of runs in long form, from their journals.

    Columns: ``run`` (its folder), ``step``, ``tokens`` (trained on so far; NaN if unknown), ``seconds`` (time spent in
    the run's processes until this record), ``metric`` (as in the journal, such as ``val/loss``) and ``value``. A
    damaged journal gives no rows.
    """
    columns = _CurveColumns()
    for run in run_dirs:
        with contextlib.suppress(OSError, *UNEXPECTED):
            columns.add(str(run), list(journal.read(run)))
    return curves_frame(columns.lists())


def curves_frame(columns: Sequence[Sequence[str] | Sequence[int] | Sequence[float]]) -> pd.DataFrame:
    """The frame of `curves` from the values of its columns, in the order of `CURVE_COLUMNS`."""
    frame = pd.DataFrame(dict(zip(CURVE_COLUMNS, columns, strict=True)), columns=list(CURVE_COLUMNS))
    return frame.astype({"step": int, "tokens": float, "seconds": float})


@dataclass
class _CurveColumns:
    """The columns of `curves` as lists, from which pandas makes a frame several times as fast as from rows."""

    run: list[str] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    metric: list[str] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def lists(self) -> tuple[list[str] | list[int] | list[float], ...]:
        """In the order of `CURVE_COLUMNS`."""
        return self.run, self.step, self.tokens, self.seconds, self.metric, self.value

    def add(self, run: str, records: Sequence[Record]) -> None:
        """Add the metrics records of a run."""
        per_step, seconds = math.nan, 0.0
        for i, record in enumerate(records):
            if isinstance(record, StartRecord):
                per_step = _tokens_per_step(record)
            elif i and not isinstance(record, ResumeRecord):
                seconds += (record.t - records[i - 1].t) / 1000
            if isinstance(record, MetricsRecord):
                n = len(record.values)
                self.run += [run] * n
                self.step += [record.step] * n
                self.tokens += [record.step * per_step] * n
                self.seconds += [seconds] * n
                self.metric += record.values.keys()
                self.value += record.values.values()


def _tokens_per_step(start: StartRecord) -> float:
    """Rows of a batch times tokens of a row; NaN in the record of another program."""
    sizes = [start.config.get(group, {}) for group in ("trainer", "model")]
    rows, context = (size.get(key) for size, key in zip(sizes, ("batch_size", "context"), strict=True))
    return float(rows * context) if isinstance(rows, int) and isinstance(context, int) else math.nan
