"""Run folders -> one row a run -> one row a variant, with what a reader has to be warned of.

A variant is everything that decides a result except the seeds: its runs differ in seed and data_seed only.
Values are raw (nats a token, bits a byte, bytes, tokens a second); render.py makes them human.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from gptx.config.axes import run_name_axes
from gptx.config.identity import NOT_RESULT, result_keys
from gptx.runs import journal
from gptx.runs.metrics import CURVES, METRICS
from gptx.runs.records import EndRecord, MetricsRecord, Result, RunStatus, StartRecord, read_result, result_of

Row = dict[str, Any]


_SEEDS = {"seed", "data_seed"}
_NOTHING = Result(status=RunStatus.KILLED)  # of a folder without readable files
_FACTS = ("uid", "identity", "name", "study", "corpus_hash", "tokenizer_hash", "dtype")
_COLUMNS = ["run", "status", "problem", "written", *_FACTS, "seed", "data_seed", "steps", "tokens"]
_COLUMNS += ["hardware", "device", "code", "variant", "config", *(m.key for m in METRICS)]


def table(run_dirs: Iterable[Path]) -> pd.DataFrame:
    """One row a run folder, finished or not: status, facts, figures (NaN = none), axes and config.

    ``variant`` holds {axis: choice}, ``config`` {dotted key: value} without what cannot decide a result,
    ``problem`` what was wrong with the folder's files. An unreadable folder has the status ``damaged``,
    one without any record ``missing``.
    """
    folders = {Path(run).resolve(): Path(run) for run in run_dirs}
    rows = sorted((_row(folder) for folder in folders.values()), key=lambda row: str(row["run"]))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _row(folder: Path) -> Row:
    status, result, problem = _result(folder)
    config, hardware = result.config, result.hardware
    kept = {key: value for key, value in result_keys(config, result.revisions).items() if key not in _SEEDS}
    if source := result.resume_source:
        kept["resume_from"] = f"{source.identity}@{source.step}"
    row: Row = {"run": str(folder), "status": status, "problem": problem, "written": _written(folder), "config": kept}
    row |= {key: str(getattr(result, key) or "") for key in _FACTS}
    row["seed"] = _whole(result.seed, _whole(config.get("seed"), 0))
    row["data_seed"] = _whole(config.get("data_seed"), row["seed"])
    row |= {key: _number(getattr(result, key)) for key in ("steps", "tokens", *(m.key for m in METRICS))}
    row |= {"device": hardware.device, "code": result.code}
    cores = f"{hardware.cores} cores" if hardware.cores else ""
    row["hardware"] = ", ".join(filter(None, (hardware.device, hardware.cpu, cores)))
    row["variant"] = {k: str(v) for k, v in result.variant.items() if k not in NOT_RESULT}
    return row


def _result(folder: Path) -> tuple[str, Result, str]:
    """Status, result, problem. A finished result.json is final; else the journal tells how things stand."""
    problem = ""
    try:
        result = read_result(folder / "result.json")
        if result.status == RunStatus.FINISHED:
            return "finished", result, ""
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        problem = f"{folder / 'result.json'} is damaged ({error})"
    try:
        status, result = _journaled(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return "damaged", _NOTHING, f"{folder / journal.NAME} is damaged ({error}): skipped"
    if problem:
        status = "finished" if status == "finished" else "damaged"
        problem += ": its figures are taken from the journal" if status == "finished" else ": skipped"
    return status, result, problem


def _journaled(folder: Path) -> tuple[str, Result]:
    """What the journal knows: the result in its end record, else start and last point of each curve."""
    start: StartRecord | None = None
    values: Row = {}
    steps = 0
    for record in journal.read(folder):
        if isinstance(record, StartRecord):
            start = record
        elif isinstance(record, MetricsRecord):
            values |= record.values
            steps = record.step
        elif isinstance(record, EndRecord) and record.status == RunStatus.FINISHED and record.result:
            return "finished", record.result
    if start is None:
        return "missing", _NOTHING
    curves = {key: values.get(name) for key, name in CURVES.items()}
    status = journal.status(folder)
    return status, result_of(start, status=status, steps=steps, **curves)


def summarise(frame: pd.DataFrame, *, all_keys: bool = False, include_unfinished: bool = False) -> pd.DataFrame:
    """One row a variant, best bits per byte first, from the finished rows of ``table``.

    Columns: what names the variant (all before ``n``), n, seeds, <figure>_mean, <figure>_sd (sample
    deviation, NaN for one seed), data, corpus_hash, tokenizer_hash, hardware, device, steps, tokens (sorted
    lists), runs. Of runs that repeat variant and seed the newest counts. ``all_keys`` names also what just
    follows from a choice; ``include_unfinished`` gives unfinished runs rows of their own, with a ``status``.
    """
    rows = chosen(frame, include_unfinished=include_unfinished)
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault((key_of(row), row["status"]), []).append(row)
    names = naming(rows, all_keys=all_keys)
    variants = [_variant(group, names, include_unfinished) for group in groups.values()]
    variants.sort(key=lambda v: (v.get("status", "finished") != "finished", _last_if_nan(v["val_bpb_mean"]), v["runs"]))
    head = [*names, *(["status"] if include_unfinished else []), "n", "seeds"]
    head += [f"{m.key}_{what}" for m in METRICS for what in ("mean", "sd")]
    tail = ["data", "corpus_hash", "tokenizer_hash", "hardware", "device", "steps", "tokens", "runs"]
    columns = [*head, *(t for t in tail if t not in names)]
    numbers = {f"{m.key}_{what}": float for m in METRICS for what in ("mean", "sd")}
    # object first: pandas would turn a column of 64 and None into 64.0 and NaN
    return pd.DataFrame(variants, columns=columns, dtype=object).astype({"n": int, **numbers})


def _variant(group: list[Row], names: list[str], with_status: bool) -> Row:
    group = sorted(group, key=lambda row: (row["seed"], row["data_seed"]))
    first = group[0]
    out: Row = {"data": first["variant"].get("data", "")}
    out |= {name: value_of(first, name) for name in names}
    if with_status:
        out["status"] = first["status"]
    out |= {"n": len(group), "seeds": [seed_of(row) for row in group]}
    for metric in METRICS:
        values = [row[metric.key] for row in group if not math.isnan(row[metric.key])]
        out[f"{metric.key}_mean"] = statistics.mean(values) if values else math.nan
        out[f"{metric.key}_sd"] = statistics.stdev(values) if len(values) > 1 else math.nan
    for fact in ("hardware", "device", "steps", "tokens"):
        out[fact] = sorted({_int(row[fact]) for row in group if row[fact] == row[fact]})
    out |= {fact: first[fact] for fact in ("corpus_hash", "tokenizer_hash", "dtype")}
    return {**out, "runs": [row["run"] for row in group]}


def chosen(frame: pd.DataFrame, *, include_unfinished: bool = False) -> list[Row]:
    """The rows that count: finished, and of one variant and seed the newest only (a repeat is no seed)."""
    newest: dict[Hashable, Row] = {}
    rows: list[Row] = frame.to_dict("records")  # type: ignore[assignment]
    for row in sorted(rows, key=lambda row: (row["written"], row["run"])):
        shown = row["status"] not in ("damaged", "missing") if include_unfinished else row["status"] == "finished"
        if shown:
            newest[key_of(row), row["status"], seed_of(row)] = row
    return sorted(newest.values(), key=lambda row: str(row["run"]))


def naming(rows: list[Row], *, all_keys: bool = False) -> list[str]:
    """What tells variants apart: the usual axes, others that differ, keys that differ within one choice."""
    axes = sorted({axis for row in rows for axis in row["variant"]})
    names = [*(shown := run_name_axes()), *(axis for axis in axes if axis not in shown and _differs(rows, axis))]
    keys = [k for k in sorted({k for row in rows for k in row["config"]}) if _differs(rows, k)]
    seen: set[Hashable] = set()
    for key in sorted(keys, key=lambda k: (not k.startswith("model."), k)):
        # an interpolation such as attention.d_model: ${model.d_model} says again what the first one said
        copy = (key.rsplit(".", 1)[-1], tuple(_frozen(value_of(row, key)) for row in rows))
        if all_keys or (copy not in seen and _free(rows, key)):
            names.append(key)
        seen.add(copy)
    if len({row["corpus_hash"] for row in rows}) > 1 and "data" not in names:
        names.append("corpus_hash")  # one name, several texts (data.path)
    return names


def _free(rows: list[Row], key: str) -> bool:
    """Whether the key differs among runs that chose the same in its group: the choice does not tell it."""
    by_choice: dict[str, list[Row]] = {}
    for row in rows:
        by_choice.setdefault(row["variant"].get(key.split(".")[0], ""), []).append(row)
    return any(_differs(same, key) for same in by_choice.values())


def _differs(rows: list[Row], name: str) -> bool:
    return len({_frozen(value_of(row, name)) for row in rows}) > 1


def value_of(row: Row, name: str) -> Any:
    """An axis's choice, a config key's value or a fact of a run; None where the run has no such thing."""
    return row["variant"].get(name, row["config"].get(name, row.get(name) if name in _FACTS else None))


def key_of(row: Row, without: str = "") -> str:
    """Equal for runs of one variant; ``without`` an axis: equal for runs that differ in nothing but it."""
    config = {k: v for k, v in row["config"].items() if k.split(".")[0] != without}
    axes = {k: v for k, v in row["variant"].items() if k != without}
    return _frozen([config, axes, row["corpus_hash"]])


def seed_of(row: Row) -> Any:
    """The seed, or "seed/data_seed" where the two are not the same number."""
    return row["seed"] if row["seed"] == row["data_seed"] else f"{row['seed']}/{row['data_seed']}"


def counts(frame: pd.DataFrame) -> dict[str, int]:
    """{status: runs}, the finished ones first."""
    found = Counter(frame["status"])
    return {status: found[status] for status in sorted(found, key=lambda s: (s != "finished", s))}


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _number(value: Any) -> float:
    """NaN stands for whatever is not a finite number: missing, null, a diverged loss."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else math.nan


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _int(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _written(folder: Path) -> float:
    for name in ("result.json", journal.NAME):
        if (folder / name).exists():
            return (folder / name).stat().st_mtime
    return 0.0
