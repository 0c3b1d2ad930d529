"""The trials of a search: a source of tasks that asks optuna for points and reports to it how their runs ended.

A trial is a point of the space and the run that trains it. Trials that a killed command left unfinished come first when
the command is given again: they have the same values, so the same run folders, so their runs resume.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from gptx.errors import ConfigError
from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.runs.metrics import selection, selection_curve
from gptx.runs.records import MetricsRecord, RunStatus
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.plan.cell_checks import check_cells
from gptx.sweep.plan.cells import Cell, compose_cells
from gptx.sweep.plan.memory_fit import FreeMemory, check_memory, fits_at_once
from gptx.sweep.search.optuna_study import (
    FAILURE,
    OVERRIDES,
    REJECTION,
    RUN,
    TITLE,
    rejection,
    sampler_of,
)
from gptx.sweep.search.search_context import SearchContext
from gptx.sweep.state.records import AttemptOutcome, CellRejected, TrialEnded

MAX_REJECTIONS = 25  # rejected points in a row after which the search is abandoned


@dataclass(frozen=True)
class _Point:
    """A trial that is ready to run."""

    trial: optuna.Trial
    cell: Cell
    folder: Path


@dataclass
class _Run:
    """A run in progress, for one trial or for several that try the same point.

    Attributes:
        offset: bytes of its journal that have been read.
        pruned: whether the run was requested to stop.
    """

    task: Task
    cell: Cell
    trials: list[optuna.Trial] = field(default_factory=list)
    offset: int = 0
    pruned: bool = False


@dataclass(frozen=True)
class _CurveValue:
    """The value at a step of the metric that the pruner compares."""

    step: int
    value: float


class TrialSource:
    """A `gptx.sweep.execute.loop.Source` for a search.

    Attributes:
        abandoned: why the search was abandoned; empty if it was not.
    """

    def __init__(self, study: optuna.Study, context: SearchContext) -> None:
        self._study, self._context = study, context
        self._free: FreeMemory = {}
        self._waiting: _Point | None = None  # until there is memory for it
        self._unfinished = deque(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
        self._count = sum(not rejection(trial) for trial in study.get_trials(deepcopy=False))
        self._runs: dict[Path, _Run] = {}
        self._rejections = 0  # consecutive rejections
        self.abandoned = ""

    @property
    def done(self) -> bool:
        more = self._unfinished or self._count < self._context.options.n_trials
        return not self._waiting and (bool(self.abandoned) or not more)

    def next_tasks(self, free_slots: int) -> list[Task]:
        """At most one task, so that the sweep's loop can handle events between two tasks."""
        if free_slots <= 0 or self.done:
            return []
        if not self._waiting:
            trial = self._ask()
            try:
                self._waiting = self._prepare(trial)
            except ConfigError as error:
                self._reject(trial, str(error))
                return []
        if not fits_at_once([self._waiting.cell, *(run.cell for run in self._runs.values())], self._free):
            return []
        point, self._waiting = self._waiting, None
        return self._start(point)

    def _ask(self) -> optuna.Trial:
        if self._unfinished:
            left = self._unfinished.popleft()
            self._study.sampler = sampler_of(self._context.options, left.number)
            return optuna.Trial(self._study, left._trial_id)
        self._study.sampler = sampler_of(self._context.options, len(self._study.get_trials(deepcopy=False)))
        self._count += 1
        return self._study.ask()

    def _prepare(self, trial: optuna.Trial) -> _Point:
        """Compose and check the cell of a trial.

        Raises:
            ConfigError: the point is rejected.
        """
        launcher = self._context.launcher
        tried = [dimension.suggest(trial) for dimension in self._context.space.dimensions]
        overrides = [*self._context.space.fixed, *tried]
        if self._context.keys:
            overrides = self._context.keys.applied(overrides)
        title = " ".join([f"trial {trial.number}:", *(override for override in tried if override in overrides)])
        trial.set_user_attr(TITLE, title)
        trial.set_user_attr(OVERRIDES, overrides)
        [cell] = compose_cells([overrides])
        check_cells([cell], launcher.machine)
        check_memory([cell], 1, launcher.on_this_machine, self._free)
        if cell.rejection or cell.folder is None:
            raise ConfigError(cell.rejection)
        cell.title = cell.arm = title
        cell.create_folder()
        trial.set_user_attr(RUN, cell.planned().run)
        return _Point(trial, cell, cell.folder.path)

    def _start(self, point: _Point) -> list[Task]:
        trial, cell, folder = point.trial, point.cell, point.folder
        context = self._context
        self._rejections = 0
        context.sweep.add_cell(cell.planned())
        if cell.done:
            self._tell(trial, folder, "")
            end = End(Task(cell.title, folder, (), 1, ""), AttemptOutcome.FINISHED)
            context.dashboard.run_ended(end, retried=False)
            return []
        if folder in self._runs:  # another trial is trying the same point
            self._runs[folder].trials.append(trial)
            return []
        context.follow(folder)
        context.dashboard.add_run(folder, cell.config["trainer"]["max_steps"])
        run = self._runs[folder] = _Run(cell.task(context.common), cell, [trial])
        self._report(run)  # validations from before an interruption, so that they do not stop the run at once
        return [run.task]

    def _reject(self, trial: optuna.Trial, why: str) -> None:
        """The trial does not count. optuna stores it as pruned: tpe learns from pruned trials which points to
        avoid, but it ignores failed ones."""
        trial.set_user_attr(REJECTION, why)
        self._study.tell(trial, state=TrialState.PRUNED)
        title = str(trial.user_attrs[TITLE])
        self._context.journal.write(CellRejected(title=title, reason=why))
        self._context.dashboard.print(f"{title}: rejected: {why}")
        self._count -= 1
        self._rejections += 1
        if self._rejections >= MAX_REJECTIONS:
            self.abandoned = f"{MAX_REJECTIONS} points in a row were rejected, the last one because {why}"

    def ended(self, end: End) -> None:
        run = self._runs.pop(end.task.folder)
        for trial in run.trials:
            self._tell(trial, end.task.folder, end.reason, run.pruned)

    def _tell(self, trial: optuna.Trial, folder: Path, reason: str, pruned: bool = False) -> None:
        """Report the end of a run to optuna and to the sweep's journal."""
        state, values = TrialState.FAIL, None
        result = RunFolder(folder).result()
        if result and result.status == RunStatus.FINISHED:
            found = {metric: selection(metric, result) for metric in self._context.options.metrics}
            if missing := [metric for metric, value in found.items() if value is None or not math.isfinite(value)]:
                reason = f"its result has no finite {missing[0]}"
            else:
                state, values = TrialState.COMPLETE, [float(value) for value in found.values() if value is not None]
        elif pruned:
            state = TrialState.PRUNED
            self._context.dashboard.run_pruned()
        if state == TrialState.FAIL:
            trial.set_user_attr(FAILURE, reason or "it left no result")
        self._study.tell(trial, values, state)
        ended = TrialEnded(
            number=trial.number,
            title=trial.user_attrs[TITLE],
            run=folder.name,
            state=state.name,
            values=tuple(values) if values else None,
        )
        self._context.journal.write(ended)

    def tasks_to_stop(self) -> list[Task]:
        if not self._context.options.pruned_by:
            return []
        return [run.task for run in self._runs.values() if not run.pruned and self._should_prune(run)]

    def _should_prune(self, run: _Run) -> bool:
        """Whether a new validation shows that the run should be stopped. The last validation never does."""
        newest = self._report(run)
        if not newest or newest.step >= run.cell.config["trainer"]["max_steps"] or not run.trials[0].should_prune():
            return False
        run.pruned = True
        message = f"pruned at step {newest.step:,} with {self._context.options.pruned_by} {newest.value:.4f}"
        self._context.dashboard.print(f"{run.task.title}: {message}")
        return True

    def _report(self, run: _Run) -> _CurveValue | None:
        """Report the new validations in a run's journal to optuna; returns the newest."""
        newest = None
        if not self._context.options.pruned_by:
            return None
        records, run.offset = journal.tail(run.task.folder, run.offset)
        for record in (record for record in records if isinstance(record, MetricsRecord)):
            value = selection_curve(self._context.options.pruned_by, record.values)
            if value is None:
                continue
            newest = _CurveValue(record.step, value)
            for trial in run.trials:
                if newest.step not in trial.storage.get_trial(trial._trial_id).intermediate_values:
                    trial.report(newest.value, newest.step)
        return newest
