"""Write a sweep to MLflow as a run of its own: its report and tables as artifacts, its runs nested under it.

Everything is looked up before it is created, so repeated and interrupted writes give the same rows. The parent has no
tag ``gptx.uid``, which saved views ask for: it is in no table and no chart of runs.
"""

import hashlib
from pathlib import Path
from typing import Any

from gptx.errors import ConfigError
from gptx.regular_files import open_regular, refuse_links
from gptx.runs import journal, json_log
from gptx.runs.folder import RunFolder
from gptx.runs.records import StartRecord
from gptx.runs.sweep_runs import REPORT, SweepRuns, sweep_runs
from gptx.tracking.mlflow_connection import Store

PARENT = "mlflow.parentRunId"
SWEEP = "gptx.sweep"  # tag of the parent: the name of the sweep
_SENT = "gptx.report"  # tag of the parent: the hash of the files that were sent


class SweepReplay:
    """One sweep below ``outputs``: ``push`` sends what is new. ``experiment``: of runs whose config has none."""

    def __init__(self, store: Store, outputs: Path, sweep: Path, experiment: str = "") -> None:
        self.store, self.client = store, store.client
        self._outputs, self._sweep, self._experiment = outputs, sweep, experiment
        self._starts: dict[tuple[Path, int], StartRecord] = {}  # by journal: its path and inode
        self._nested: set[str] = set()  # uids of the runs whose parent is known to be set

    def push(self) -> None:
        """Create the parent run, nest the runs under it, and send the files of the report if they differ.

        Nothing happens while no run has started. Raises what MLflow raises; the next call tries again.
        """
        plan = next((plan for path, plan in sweep_runs(self._outputs) if path.name == self._sweep.name), None)
        starts = [start for run in plan.runs if (start := self._start(self._outputs / run))] if plan else []
        if plan is None or not starts:
            return
        tracking = starts[0].config.get("tracking") or {}
        name = tracking.get("experiment") or self._experiment or starts[0].study or "default"
        experiment_id = self.store.experiment(name)
        with self.store.lock():
            parent = self._parent(experiment_id, plan)
        if (uids := {start.uid for start in starts}) - self._nested:
            self._nest(experiment_id, parent.info.run_id, uids)
        self._send_files(parent)
        self._show_status(parent, plan)

    def _start(self, run: Path) -> StartRecord | None:
        """None if the run has not started or its journal is damaged, which `Replay` reports."""
        try:
            key = (run, (run / journal.NAME).lstat().st_ino)
            if key not in self._starts and (start := RunFolder(run).start_record()) and start.uid:
                self._starts[key] = start
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ConfigError):
            return None
        return self._starts.get(key)

    def _parent(self, experiment_id: str, plan: SweepRuns) -> Any:
        from mlflow.entities import ViewType

        query = f"tags.`{SWEEP}` = '{self._sweep.name}'"
        found = self.client.search_runs([experiment_id], query, ViewType.ALL, max_results=1)
        if found:
            return found[0]
        tags = {SWEEP: self._sweep.name, "gptx.study": plan.study, "mlflow.source.name": "gptx.sweep"}
        return self.client.create_run(experiment_id, _times(self._sweep)[0], tags, f"sweep {self._sweep.name}")

    def _nest(self, experiment_id: str, parent: str, uids: set[str]) -> None:
        """Set the parent of each run of the sweep that MLflow has. A run of several sweeps belongs to the last one."""
        token = None
        while True:
            page = self.client.search_runs([experiment_id], "tags.`gptx.uid` != ''", max_results=1000, page_token=token)
            for run in page:
                if (uid := run.data.tags["gptx.uid"]) in uids:
                    if run.data.tags.get(PARENT) != parent:
                        self.client.set_tag(run.info.run_id, PARENT, parent)
                    self._nested.add(uid)
            token = page.token
            if not token:
                return

    def _send_files(self, parent: Any) -> None:
        folder = self._sweep / REPORT
        refuse_links(folder)
        files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
        digest = hashlib.sha256()
        for path in files:
            with open_regular(path, "rb") as file:
                digest.update(path.name.encode() + b"\0" + hashlib.sha256(file.read()).digest())
        if not files or parent.data.tags.get(_SENT) == digest.hexdigest():
            return
        for path in files:
            self.client.log_artifact(parent.info.run_id, str(path))
        self.client.set_tag(parent.info.run_id, _SENT, digest.hexdigest())

    def _show_status(self, parent: Any, plan: SweepRuns) -> None:
        from mlflow.entities import RunStatus

        running = journal.locked(self._sweep)
        status, end = ("RUNNING", 0) if running else ("FINISHED", _times(self._sweep)[1])
        note = f"**{len(plan.runs)} runs**, with the report and its tables as artifacts\n\n```sh\n{plan.command}\n```"
        if parent.data.tags.get("mlflow.note.content") != note:
            self.client.set_tag(parent.info.run_id, "mlflow.note.content", note)
        if (parent.info.status, parent.info.end_time or 0) != (status, end):
            store = self.client._tracking_client.store
            store.update_run_info(parent.info.run_id, RunStatus.from_string(status), end, None)


def _times(sweep: Path) -> tuple[int, int]:
    """When the sweep was started and when it last did something, in milliseconds since 1970; 0: unknown."""
    times = [int(line.get("t", 0)) for line in json_log.tail(sweep, 0)[0]]
    return (times[0], times[-1]) if times else (0, 0)
