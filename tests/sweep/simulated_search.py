"""A search by optuna whose training is simulated: the losses are those of a function."""

import os
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

import optuna
import pytest
from fake_cells import FACTS
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial

from gptx.config.plain_dict import PlainConfig
from gptx.errors import ConfigError
from gptx.runs.atomic_files import write_json
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import EndRecord, MetricsRecord, RunStatus
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import End, Launcher, Task
from gptx.sweep.execute.loop import drive
from gptx.sweep.plan.cells import Cell
from gptx.sweep.search import trial_source as module
from gptx.sweep.search.optuna_study import STORE, SearchOptions, open_study, pruner_of
from gptx.sweep.search.search_context import SearchContext
from gptx.sweep.search.space import Space
from gptx.sweep.search.trial_source import TrialSource
from gptx.sweep.state.folder import Sweep, SweepKind, SweepPlan
from gptx.sweep.state.records import AttemptOutcome

STEPS, EVERY = 40, 10
KEYS = SearchOptions(12, ("val_loss",), "tpe", 4, 0, "none", 0)
LR = "optim.lr=tag(log,interval(1e-4,1e-2))"


def space(*overrides: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(overrides)))


def stored_study(folder: Path) -> optuna.Study:
    """The study that a search in this folder has stored."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / STORE))
    return optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(backend))


class Killed(BaseException):
    """Simulates SIGKILL: no handler runs."""


Curve = Callable[[dict[str, str], int], float]


class SimulatedLauncher(Launcher):
    """Simulates runs whose losses are given by a curve; each `wait` trains them for EVERY steps."""

    def __init__(self, curve: Curve, slots: int = 1, kill_at: int = -1, signal_at: int = -1) -> None:
        self.curve, self.slots, self.kill_at, self.signal_at = curve, slots, kill_at, signal_at
        self.started: list[str] = []
        self.most, self.waits = 0, 0
        self.stopped: set[Task] = set()
        self.tasks: list[Task] = []

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> None:
        self.started += [task.folder.name for task in tasks]
        self.tasks += tasks
        self.most = max(self.most, len(self.tasks))
        assert len(self.tasks) <= self.slots

    def wait(self) -> list[End]:
        self.waits += 1
        if self.waits == self.kill_at:
            raise Killed
        if self.waits == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        ends = [end for task in self.tasks if (end := self._advance(task))]
        self.tasks = [task for task in self.tasks if task not in {end.task for end in ends}]
        return ends

    def _advance(self, task: Task) -> End | None:
        values = dict(override.split("=", 1) for override in task.overrides)
        if values.get("attention") == "broken":
            return End(task, AttemptOutcome.FAILED, "the kernel broke")
        with Journal(task.folder) as log:
            if task in self.stopped:
                log.write(EndRecord(status=RunStatus.INTERRUPTED))
                return End(task, AttemptOutcome.STOPPED, "stopped")
            step = max(0, log.last_step) + EVERY
            loss = self.curve(values, step)
            half = {"val/loss_select": loss, "val/accuracy_select": -loss}  # the report half has the opposite order
            log.write(MetricsRecord(step=step, values={"val/loss": -loss, "val/accuracy": loss, **half}))
        if step < STEPS:
            return None
        result = {"status": "finished", "val_loss": -loss, "val_accuracy": loss, "val_bpb": -2 * loss}
        result |= {"val_loss_select": loss, "val_accuracy_select": -loss}
        write_json(task.folder / "result.json", result | {"n_params": 4 if values["attention"] == "mha" else 2})
        return End(task, AttemptOutcome.FINISHED)

    def stop(self, tasks: Collection[Task]) -> None:
        self.stopped.update(tasks)

    def running(self) -> list[Task]:
        return self.tasks


def loss_of(values: dict[str, str], step: int) -> float:
    return abs(float(values.get("optim.lr", "0.001")) - 0.003) * 100 + (values["attention"] == "gqa") + 1 / step


class Search:
    """A search in a folder; every call is a new command."""

    def __init__(self, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sweep = Sweep(outputs, "study-0")
        monkeypatch.setattr(module, "compose_cells", lambda combinations: [self.cell(*combinations)])
        monkeypatch.setattr(module, "check_cells", lambda cells, there: None)
        monkeypatch.setattr(module, "check_memory", lambda cells, jobs, here, rooms: None)
        self.followed: list[Path] = []

    def cell(self, overrides: list[str]) -> Cell:
        if "attention=typo" in overrides:
            raise ConfigError("unknown option attention=typo")
        folder = self.sweep.outputs / "study" / " ".join(overrides)
        folder.mkdir(parents=True, exist_ok=True)
        known: PlainConfig = {"study": "study", "force": False, "trainer": {"max_steps": STEPS}, "strategy": {}}
        rejection = "it cannot be" if "attention=never" in overrides else ""
        return Cell(overrides, "", "", known, RunFolder(folder), rejection, FACTS)

    def __call__(
        self, launcher: SimulatedLauncher, keys: SearchOptions = KEYS, where: Space | None = None
    ) -> TrialSource:
        plan = SweepPlan(study="study", kind=SweepKind.OPTUNA, cells=self.sweep.plan.cells)
        with self.sweep.work(plan) as log:
            study = open_study(self.sweep.path, keys, pruner_of(keys, EVERY))
            dashboard = Dashboard(keys.n_trials, 0, {}, 0.0)
            where = where or space("attention=mha,gqa", LR)
            context = SearchContext(keys, where, (), launcher, self.sweep, log, dashboard, self.followed.append)
            source = TrialSource(study, context)
            drive(source, launcher, log, dashboard, retry=0)
        return source

    @property
    def study(self) -> optuna.Study:
        return stored_study(self.sweep.path)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials()

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials]
