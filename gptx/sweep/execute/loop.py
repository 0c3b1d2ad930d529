"""The loop of a sweep: passes tasks from a source to a launcher and records in the sweep's journal how each ended."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gptx.errors import Interrupted
from gptx.processes.signals import record_stop_signals
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import End, Launcher, Task
from gptx.sweep.state.records import AttemptOutcome, RunEnded, SweepJournal


class Source(Protocol):
    """Decides what is run: a grid, a grid with halving, or a search."""

    @property
    def done(self) -> bool:
        """Whether no more tasks will come."""

    def next_tasks(self, free_slots: int) -> list[Task]:
        """The tasks that can start now."""

    def ended(self, end: End) -> None:
        """A task from `next_tasks` has ended and will not be retried."""

    def tasks_to_stop(self) -> list[Task]:
        """Running tasks that are to be stopped now. Called several times a second."""


class TaskList:
    """A source whose tasks are all known at the start."""

    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks

    @property
    def done(self) -> bool:
        return not self._tasks

    def next_tasks(self, free_slots: int) -> list[Task]:
        tasks, self._tasks = self._tasks, []
        return tasks

    def ended(self, end: End) -> None:
        pass

    def tasks_to_stop(self) -> list[Task]:
        return []


def drive(
    source: Source, launcher: Launcher, journal: SweepJournal, dashboard: Dashboard, retry: int
) -> dict[Task, str]:
    """Run all tasks of the source.

    Args:
        retry: how often a failed task is retried.

    Returns:
        Why tasks failed, in one line each.

    Raises:
        Interrupted: a signal came. All running tasks have saved a checkpoint and ended.
    """
    with record_stop_signals() as signals, launcher, dashboard:
        loop = _Loop(source, launcher, journal, dashboard, retry, signals)
        if loop.run():
            return loop.failed
        loop.stop()
    raise Interrupted(*signals[:1])


@dataclass
class _Loop:
    """The state of `drive`.

    Attributes:
        signals: the stop signals that have come; the list grows while the loop runs.
        active: tasks that have been submitted and have not ended; a task that is retried stays active.
        failed: why tasks failed.
        stopped_by_source: tasks that were stopped because the source asked for it.
    """

    source: Source
    launcher: Launcher
    journal: SweepJournal
    dashboard: Dashboard
    retry: int
    signals: Sequence[int]
    attempts: Counter[Task] = field(default_factory=Counter)
    active: set[Task] = field(default_factory=set)
    failed: dict[Task, str] = field(default_factory=dict)
    stopped_by_source: set[Task] = field(default_factory=set)

    def run(self) -> bool:
        """Run tasks until no more come; returns whether all have ended: False if a signal came first."""
        while not self.signals:
            self._submit_next()
            if not self.active and self.source.done:
                return True
            self._handle_ends()
            self._stop_for_source()
            self.dashboard.update(self.launcher.running())
        return False

    def stop(self) -> None:
        """Stop all tasks after a signal, and wait until they have ended."""
        self.launcher.stop(self.active)
        self.dashboard.print("stopping: waiting for running runs to save a checkpoint; press Ctrl-C again to kill them")
        while self.launcher.running():
            self._handle_ends()

    def _submit_next(self) -> None:
        tasks = self.source.next_tasks(self.launcher.slots - len(self.active))
        self.launcher.submit(tasks)
        self.active.update(tasks)

    def _stop_for_source(self) -> None:
        if tasks := self.source.tasks_to_stop():
            self.stopped_by_source.update(tasks)
            self.launcher.stop(tasks)

    def _handle_ends(self) -> None:
        for end in self.launcher.wait():
            self._handle(self._with_cause(end))

    def _with_cause(self, end: End) -> End:
        """The end of an attempt. The launcher does not know why an attempt was stopped."""
        if end.task in self.stopped_by_source:
            return End(end.task, AttemptOutcome.PAUSED)
        if self.signals and end.outcome is AttemptOutcome.CANCELLED:
            return End(end.task, AttemptOutcome.STOPPED, end.reason)
        return end

    def _handle(self, end: End) -> None:
        """Record the end of an attempt, then start the next attempt or close the task."""
        task, outcome, reason = end.task, end.outcome, end.reason
        self.attempts[task] += 1
        retried = outcome.can_be_retried and not self.signals and self.attempts[task] <= self.retry
        ended = RunEnded(title=task.title, run=task.folder.name, outcome=outcome, reason=reason, retried=retried)
        self.journal.write(ended)
        self.dashboard.run_ended(end, retried)
        if retried:
            self.launcher.submit([task])
        else:
            self._close(end)

    def _close(self, end: End) -> None:
        """A task has ended and is not retried. After a signal, one that has not reached its goal is resumed by the
        same command, so the source does not count it as ended."""
        reached_goal = end.outcome.reached_goal
        self.active.remove(end.task)
        if not reached_goal:
            self.failed[end.task] = end.reason
        if reached_goal or not self.signals:
            self.source.ended(end)
