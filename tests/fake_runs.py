"""Run folders without training, written in milliseconds, and queries of MLflow's database."""

import fcntl
import importlib
import json
import sqlite3
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gptx.runs import journal
from gptx.runs.journal import Journal
from gptx.runs.preflight_facts import DataFacts, GitState
from gptx.runs.records import EndRecord, MetricsRecord, Result, RunStatus, SampleRecord, StartRecord


def start(uid: str, study: str = "study", seed: int = 0, replaces: str | None = None, **variant: str) -> StartRecord:
    variant = {"attention": "gqa", "pos": "rope", "window": "full", "strategy": "single", "model": "nano", **variant}
    axes = [variant[key] for key in ("attention", "pos", "window", "strategy")]
    return StartRecord(
        uid=uid,
        identity=uid[:8],
        name="·".join([*axes, f"s{seed}"]),
        study=study,
        variant=variant,
        seed=seed,
        config={
            "study": study,
            "seed": seed,
            "attention": {"_target_": "gptx.attention.gqa.GQA", "n_kv_head": 2},
            "optim": {"lr": 1e-3, "betas": [0.9, 0.95], "note": "x" * 7000},
            "many": {f"key{i}": i for i in range(150)},
            "tracking": {"experiment": study, "weights": True},
        },
        command=f"python -m gptx.run attention={variant['attention']}",
        git=GitState(commit="c0ffee"),
        data=DataFacts(name="sotu", corpus_hash="f" * 64, tokenizer="byte", train_tokens=9, val_tokens=1),
        n_params=800_000,
        replaces=replaces,
    )


def result(val_bpb: float, **more: Any) -> Result:
    figures = {"val_loss": val_bpb * 0.69, "val_accuracy": 0.4, "best_step": 20, "n_params": 800_000}
    cost = {"tokens_per_s": 50_000.4, "peak_memory_bytes": 500_000_000, "kv_bytes_per_token": 512, "seconds": 9.87}
    return Result(**{"status": RunStatus.FINISHED, "val_bpb": val_bpb, **figures, **cost, **more})


def folder(outputs: Path, uid: str, study: str = "study") -> Path:
    """A run folder with all files but the journal."""
    run_dir = outputs / study / f"run-{uid[:8]}"
    best = run_dir / "checkpoints" / "best"
    best.mkdir(parents=True)
    (best / "model.safetensors").write_bytes(b"weights")
    (best / "meta.json").write_text('{"step": 20}')
    (run_dir / "config.yaml").write_text("seed: 0\n")
    (run_dir / "tokenizer.json").write_text("{}")
    return run_dir


def make_run(outputs: Path, *, steps: int = 20, end: str | None = "finished", bpb: float = 2.0, **named: Any) -> Path:
    """A run folder with its journal. ``end``: status of the end record; None: no end record, as after a kill."""
    uid = named.pop("uid", None) or uuid.uuid4().hex
    run_dir = folder(outputs, uid, named.get("study", "study"))
    with Journal(run_dir) as journal:
        journal.write(start(uid, **named))
        write_steps(journal, 1, steps, bpb)
        journal.write(SampleRecord(step=steps, text="The state of the union"))
        if end is not None:
            journal.write(end_record(end, steps, result(bpb, status=RunStatus(end))))
    return run_dir


def end_record(status: str, step: int, result: Result | None = None, error: str | None = None) -> EndRecord:
    return EndRecord(status=RunStatus(status), step=step, error=error, result=result)


def write_steps(journal: Journal, first: int, last: int, bpb: float = 2.0) -> None:
    for step in range(first, last + 1):
        values = {"train/loss": bpb + 3.0 / step, "perf/tokens_per_s": 50_000.0}
        if step % 5 == 0:
            values |= {"val/loss": bpb * 0.69 + 1.0 / step, "val/bpb": bpb + 1.0 / step}
        journal.write(MetricsRecord(step=step, values=values))


@contextmanager
def trained(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run, as a training process does."""
    with open(run_dir / journal.LOCK, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def database(outputs: Path) -> Path:
    return outputs / ".mlflow" / "mlflow.db"


def ask(db: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True, timeout=60) as connection:
        rows = connection.execute(query, values).fetchall()
    connection.close()
    return rows


def metric_rows(db: Path) -> int:
    """The number of values in the database."""
    return int(ask(db, "select count(*) from metrics")[0][0])


def contents(db: Path, uid: str) -> dict[str, Any]:
    """Everything that the database holds of a run, without random ids."""
    run_id, status, end, name = ask(
        db,
        "select r.run_uuid, r.status, r.end_time, r.name from runs r join tags t on r.run_uuid = t.run_uuid"
        " where t.key = 'gptx.uid' and t.value = ?",
        uid,
    )[0]
    metrics = "select key, value, is_nan, timestamp, step from metrics where run_uuid = ? order by 1, 5, 4, 2"
    datasets = "select count(*) from inputs where destination_id = ? and source_type = 'DATASET'"
    models = "select count(*) from logged_models where source_run_id = ?"
    return {
        "status": status,
        "end": end,
        "name": name,
        "metrics": ask(db, metrics, run_id),
        "params": ask(db, "select key, value from params where run_uuid = ? order by 1", run_id),
        "tags": ask(db, "select key, value from tags where run_uuid = ? order by 1", run_id),
        "datasets": ask(db, datasets, run_id),
        "models": ask(db, models, run_id),
        "files": sorted(
            str(path.relative_to(db.parent / "artifacts" / run_id))
            for path in (db.parent / "artifacts" / run_id).rglob("*")
            if path.is_file()
        ),
    }


def rows_of(run_dir: Path) -> set[tuple[str, int, int]]:
    """(key, step, time) of every value in a journal, without the final ones."""
    return {(key, record.step, record.t) for record in journal.metrics(run_dir) for key in record.values}


@pytest.fixture(scope="module", autouse=True)
def mlflow_is_imported() -> None:
    """Import mlflow before the tests: an import during a test with threads and processes would disturb it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("mlflow")


def lines(run_dir: Path) -> list[bytes]:
    return (run_dir / journal.NAME).read_bytes().splitlines(keepends=True)


def uid_of(run_dir: Path) -> str:
    return str(json.loads(lines(run_dir)[0])["uid"])
