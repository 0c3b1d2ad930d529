"""The loop of a sweep: passes tasks from a source to a launcher and records in the sweep's journal how each ended."""

from collections import Counter
from typing import Protocol

from gptx.errors import Interrupted
from gptx.processes.signals import record_stop_signals
from gptx.sweep.execute.launcher import End, Launcher, Task
from gptx.sweep.state.dashboard import Dashboard
from gptx.sweep.state.records import EndKind, RunEnded, SweepJournal


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
    attempts, failed, active = Counter[Task](), dict[Task, str](), set[Task]()
    stopped_by_source = set[Task]()

    def on_end(end: End) -> None:
        if end.task in stopped_by_source:
            end = End(end.task, EndKind.PAUSED)
        elif stop and end.kind is EndKind.CANCELLED:
            end = End(end.task, EndKind.STOPPED, end.reason)
        attempts[end.task] += 1
        retried = end.kind.can_be_retried and not stop and attempts[end.task] <= retry
        run = end.task.folder.name
        journal.write(RunEnded(title=end.task.title, run=run, outcome=end.kind, reason=end.reason, retried=retried))
        dashboard.run_ended(end, retried)
        if retried:
            launcher.submit([end.task])
            return
        active.remove(end.task)
        if not end.kind.reached_goal:
            failed[end.task] = end.reason
        if end.kind.reached_goal or not stop:  # otherwise the same command resumes it
            source.ended(end)

    with record_stop_signals() as stop, launcher, dashboard:
        while not stop:
            tasks = source.next_tasks(launcher.slots - len(active))
            launcher.submit(tasks)
            active.update(tasks)
            if not active and source.done:
                return failed
            for end in launcher.wait():
                on_end(end)
            if tasks := list(source.tasks_to_stop()):
                stopped_by_source.update(tasks)
                launcher.stop(tasks)
            dashboard.update(launcher.running())
        launcher.stop(active)
        dashboard.print("stopping: waiting for running runs to save a checkpoint; press Ctrl-C again to kill them")
        while launcher.running():
            for end in launcher.wait():
                on_end(end)
    raise Interrupted(*stop[:1])
