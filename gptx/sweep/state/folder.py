"""The folder of a sweep: what belongs to it, and what no run folder can tell (refusals, attempts, jobs, rungs, trials).

A sweep is named by the runs that it means, so the same command finds it again. Its journal is written as a run's is:
a kill -9 loses at most the line in hand.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptx.runs import json_log
from gptx.runs.files import write_json
from gptx.runs.folder import held
from gptx.runs.json_log import JsonLog

FOLDER = ".sweeps"


class Sweep:
    """``outputs/.sweeps/<study>-<hash>/``: plan.json, journal.jsonl, and what a launcher puts beside them."""

    def __init__(self, outputs: Path, name: str) -> None:
        self.outputs, self.name = outputs, name
        self.path = outputs / FOLDER / name

    @property
    def plan(self) -> dict[str, Any]:
        """What was last meant: study, command, kind, launcher, and the cells."""
        found: dict[str, Any] = json.loads((self.path / "plan.json").read_text())
        return found

    def add(self, cell: dict[str, Any]) -> None:
        """A run that belongs to it, as was found out on the way. For who is at work on it."""
        plan = self.plan
        if cell["run"] not in [one["run"] for one in plan["cells"]]:
            write_json(self.path / "plan.json", plan | {"cells": [*plan["cells"], cell]})

    def records(self, *kinds: str) -> Iterator[json_log.Line]:
        """Of its journal."""
        return (record for record in json_log.read(self.path) if record["kind"] in kinds)

    @contextmanager
    def work(self, plan: dict[str, Any], force: bool = False) -> Iterator[JsonLog]:
        """Hold the sweep, write its plan down, and keep its journal. ``force``: its runs begin afresh.

        Raises:
            ConfigError: another command is at work on it.
        """
        with held(self.path, "swept"):
            write_json(self.path / "plan.json", plan)
            with JsonLog(self.path) as book:
                book.write("begin", command=plan["command"], force=force)
                yield book


def sweeps(outputs: Path) -> list[Sweep]:
    """All there are, the newest last."""
    plans = sorted((outputs / FOLDER).glob("*/plan.json"), key=lambda plan: plan.stat().st_mtime_ns)
    return [Sweep(outputs, plan.parent.name) for plan in plans]


def name_of(study: str, meant: Sequence[str]) -> str:
    """The name of the sweep that means these runs (their folders' names, or whatever else stands for them)."""
    return f"{study}-{hashlib.sha256(json.dumps(sorted(meant)).encode()).hexdigest()[:8]}"
