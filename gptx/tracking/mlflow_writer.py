"""Replay one run's journal into MLflow. Repeated or interrupted replays write the same rows.

Metric values keep the time stamps of their records, and MLflow drops a value whose (key, time, step, value)
it has. Everything else is looked up before it is created. The tag ``gptx.synced`` counts the records that have
arrived, so that they are not sent again.
"""

import json
import re
from pathlib import Path
from typing import Any

from gptx.errors import GptxError
from gptx.regular_files import refuse_links
from gptx.runs import journal
from gptx.runs.atomic_files import flocked
from gptx.runs.json_codec import to_json
from gptx.runs.preflight_facts import DataFacts
from gptx.runs.records import EndRecord, MetricsRecord, Record, ResumeRecord, RunStatus, SampleRecord, StartRecord
from gptx.tracking import mlflow_names
from gptx.tracking.mlflow_connection import Store, one_line

_NOTE = "mlflow.note.content"  # a run's description
_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED"}  # else KILLED
_BATCH = 900  # MLflow takes at most 1000 values a call


class Replay:
    """One run folder below ``outputs``, and its MLflow run: ``push`` sends what is new.

    ``weights``: whether to send the best weights; None: use the run's config. ``experiment``: name of the experiment
    for a run whose config has none.
    """

    def __init__(
        self, store: Store, outputs: Path, run_dir: Path, experiment: str = "", weights: bool | None = None
    ) -> None:
        self.store, self.client = store, store.client
        self.run_dir = run_dir
        self.folder = str(run_dir.resolve().relative_to(outputs.resolve().parent))
        self.status = RunStatus.RUNNING  # as last pushed
        self.rows = 0  # values in the journal
        self.new_rows = 0  # the number of these values that this object has sent
        self._experiment, self._weights = experiment, weights
        self._start = StartRecord()  # its uid is empty until it was read
        self._last: Record = self._start  # the last start, resume or end
        self._time = 0  # of the last record
        self._inode: int | None = None  # of the journal; force=true puts another one in its place
        self._offset = 0  # bytes of the journal that were read
        self._pending: list[Record] = []  # read, but not known to have arrived
        self._synced = 0  # records that have arrived
        self._shown: tuple[str, int | None, str | None] | None = (
            None  # status, end, note in MLflow; None: not looked up
        )

    def push(self) -> None:
        """Send every record that has not arrived.

        Raises GptxError for a file that is no journal, and what MLflow raises; the next call tries again.
        """
        refuse_links(self.run_dir)
        with flocked(self.run_dir / journal.NAME):  # two processes at once would create the same run twice
            alive = journal.locked(self.run_dir)  # before reading: all records written before the unlock are read
            self._read()
            if self._shown is None:
                self._attach()
            self._send(self._pending)
            self._show_status(alive)
            if self._pending:
                self._tag({"gptx.synced": str(self._synced + len(self._pending))})
                self._synced += len(self._pending)
                self._pending = []

    def replaced(self) -> bool:
        """Whether the journal was replaced by a new one since it was read (force=true)."""
        return self._inode not in (None, (self.run_dir / journal.NAME).stat().st_ino)

    def _read(self) -> None:
        """Read the records that were appended since the last read."""
        path = self.run_dir / journal.NAME
        inode = path.stat().st_ino
        if self.replaced():
            raise GptxError(f"{self.run_dir} holds another run now")
        try:
            records, offset = journal.tail(self.run_dir, self._offset)
            if not self._start.uid:
                first = records[0] if records else None
                if not isinstance(first, StartRecord) or not first.uid:
                    raise ValueError("it does not begin with a start record")
                self._start = first
            for record in records:
                self._take(record)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise GptxError(f"{path} is no journal of gptx: {one_line(error)}") from error
        self._inode, self._offset = inode, offset
        self._pending += records

    def _take(self, record: Record) -> None:
        self._time = record.t
        if isinstance(record, StartRecord | ResumeRecord | EndRecord):
            self._last = record
        self.rows += len(record.values) if isinstance(record, MetricsRecord) else 0

    def _attach(self) -> None:
        """Find this run in MLflow or create it, and remove the pending records that MLflow already has."""
        start = self._start
        wanted = _tracking(start).get("experiment") or self._experiment or start.study
        self.experiment_id = self.store.experiment(wanted or "default")
        with self.store.lock():
            run = self._find(start.uid)
            if run is None:
                tags = {"gptx.uid": start.uid, "gptx.synced": "0"}
                name = start.name or self.run_dir.name
                run = self.client.create_run(self.experiment_id, start.t, tags, name)
            self.run_id = run.info.run_id
            self._synced = int(run.data.tags.get("gptx.synced", 0))
            if run.info.lifecycle_stage == "deleted" and len(self._pending) > self._synced:
                self.client.restore_run(self.run_id)  # deleted in the UI, then training continued
            if self._synced == 0:
                self._send_start()
        self._pending = self._pending[self._synced :]
        self._shown = (run.info.status, run.info.end_time or None, run.data.tags.get(_NOTE))

    def _find(self, uid: str) -> Any:
        from mlflow.entities import ViewType

        query = f"tags.`gptx.uid` = '{uid}'"
        found = self.client.search_runs([self.experiment_id], query, ViewType.ALL, max_results=1)
        return found[0] if found else None

    def _send_start(self) -> None:
        """Send params, tags, data set and config.yaml. Repeating this changes nothing: the values are equal."""
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in mlflow_names.params(self._start).items()]
        for i in range(0, len(params), 100):
            self.client.log_batch(self.run_id, params=params[i : i + 100])
        self._tag(mlflow_names.tags(self._start))
        self._send_dataset(self._start.data)
        if (self.run_dir / "config.yaml").exists():
            self.client.log_artifact(self.run_id, str(self.run_dir / "config.yaml"))
        replaced = self._find(self._start.replaces) if self._start.replaces else None
        if replaced is not None and replaced.info.lifecycle_stage == "active":
            self.client.delete_run(replaced.info.run_id)

    def _send_dataset(self, data: DataFacts) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not data.corpus_hash:
            return
        source = json.dumps({key: getattr(data, key) for key in ("corpus_hash", "tokenizer", "tokenizer_hash")})
        profile = json.dumps({key: getattr(data, key) for key in ("train_tokens", "val_tokens")})
        digest = data.corpus_hash[:36]  # the longest digest that MLflow accepts
        dataset = Dataset(data.name or "corpus", digest, "gptx", source, None, profile)
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def _send(self, records: list[Record]) -> None:
        from mlflow.entities import Metric

        values = [
            Metric(mlflow_names.clean(key), float(value), record.t, record.step)
            for record in records
            if isinstance(record, MetricsRecord)
            for key, value in record.values.items()
        ]
        for i in range(0, len(values), _BATCH):
            self.client.log_batch(self.run_id, metrics=values[i : i + _BATCH])
        for record in records:
            if isinstance(record, SampleRecord):
                self.client.log_text(self.run_id, record.text, f"samples/step-{record.step:08d}.txt")
            elif isinstance(record, EndRecord):
                self._send_end(record)
        self.new_rows += len(values)

    def _send_end(self, end: EndRecord) -> None:
        """Send the best weights and, once, the final figures, at step 0: one point at step 2000 distorts charts."""
        from mlflow.entities import Metric

        result = end.result
        text = json.dumps(to_json(result) if result else {}, indent=2, ensure_ascii=False)
        self.client.log_text(self.run_id, text, "result.json")
        if result and end.status == RunStatus.FINISHED:
            final = [Metric(key, value, end.t, 0) for key, value in mlflow_names.final(result)]
            self.client.log_batch(self.run_id, metrics=final)
            weights = _tracking(self._start).get("weights", True) if self._weights is None else self._weights
            if weights:
                self._send_model(result.best_step or end.step)

    def _send_model(self, step: int) -> None:
        """Send the best checkpoint as a LoggedModel, one for each (run, step). Complete an interrupted upload."""
        best = self.run_dir / "checkpoints" / "best"
        files = [*sorted(best.glob("*")), self.run_dir / "config.yaml", self.run_dir / "tokenizer.json"]
        if not best.is_dir():
            return
        found = self.client.search_logged_models([self.experiment_id], f"source_run_id = '{self.run_id}'")
        model = next((m for m in found if m.tags.get("gptx.step") == str(step)), None)
        if model is None:
            name = re.sub(r"[/:.%\"']", "-", self._start.name or "model")
            tags = {"gptx.uid": self._start.uid, "gptx.step": str(step)}
            short = mlflow_names.short_params(self._start)
            model = self.client.create_logged_model(self.experiment_id, name, self.run_id, tags, short, "gptx")
        if str(model.status) != "READY":
            for path in files:
                if path.is_file():
                    self.client.log_model_artifact(model.model_id, str(path))
            self._link_model(model.model_id, step)
            self.client.finalize_logged_model(model.model_id, "READY")

    def _link_model(self, model_id: str, step: int) -> None:
        """Show the model on the run's page. MLflow rejects a second link."""
        from mlflow.entities import LoggedModelOutput

        outputs = self.client.get_run(self.run_id).outputs
        if model_id not in [model.model_id for model in (outputs.model_outputs if outputs else [])]:
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step)])

    def _show_status(self, alive: bool) -> None:
        """Send status, end time and description if those in MLflow differ. ``alive``: a process trained the run before
        the journal was read."""
        from mlflow.entities import RunStatus as MlflowStatus

        if isinstance(self._last, EndRecord):
            self.status = self._last.status
        else:
            running = alive or journal.locked(self.run_dir)
            self.status = RunStatus.RUNNING if running else RunStatus.KILLED
        status = _STATUS.get(self.status, "KILLED")
        note = mlflow_names.note(self._start, self._last, self.status, self.folder)
        wanted = (status, None if status == "RUNNING" else self._time, note)
        if wanted == self._shown and self._synced:
            return
        self._tag({_NOTE: note})
        # 0 is MLflow's "no end time"; its public set_terminated would put the present time there
        store = self.client._tracking_client.store
        store.update_run_info(self.run_id, MlflowStatus.from_string(status), wanted[1] or 0, None)
        self._shown = wanted

    def _tag(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _tracking(start: StartRecord) -> dict[str, Any]:
    tracking: dict[str, Any] = start.config.get("tracking") or {}
    return tracking
