"""The loop of a sweep: tasks from a source, to a launcher, and every end into the sweep's journal."""

from collections import Counter
from typing import Protocol

from gptx.errors import Interrupted
from gptx.processes.signals import record_stop_signals
from gptx.runs.json_log import JsonLog
from gptx.sweep.execute.launcher import End, Launcher, Task
from gptx.sweep.state.dashboard import Board


class Source(Protocol):
    """What is to be run: a grid, the rungs of a halving, a search."""

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""

    def more(self, room: int) -> list[Task]:
        """What can be started now, where ``room`` runs have a free slot."""

    def told(self, end: End) -> None:
        """A task that `more` gave will not be tried again."""

    def look(self) -> list[Task]:
        """Those of the running ones that are to be stopped now. Asked all the time."""


class Listed:
    """A source that has all its tasks from the beginning."""

    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks

    @property
    def done(self) -> bool:
        return not self._tasks

    def more(self, room: int) -> list[Task]:
        given, self._tasks = self._tasks, []
        return given

    def told(self, end: End) -> None:
        pass

    def look(self) -> list[Task]:
        return []


def drive(source: Source, launcher: Launcher, book: JsonLog, board: Board, retry: int) -> dict[Task, str]:
    """Run all that the source has; returns why tasks failed.

    Raises:
        Interrupted: a signal came; all that ran has ended, with a checkpoint.
    """
    tries, failed, in_hand = Counter[Task](), dict[Task, str](), set[Task]()
    halted = set[Task]()  # by the source: they stand where they were asked to

    def ended(end: End) -> None:
        end = End(end.task, "") if end.task in halted else end
        tries[end.task] += 1
        again = bool(end.reason) and not end.final and not stop and tries[end.task] <= retry
        book.write("end", title=end.task.title, run=end.task.folder.name, reason=end.reason, again=again)
        board.ended(end, again)
        if again:
            launcher.submit([end.task])
            return
        in_hand.remove(end.task)
        if end.reason:
            failed[end.task] = end.reason
        if not (end.reason and stop):  # else it is not at its end: the same command goes on with it
            source.told(end)

    with record_stop_signals() as stop, launcher, board:
        while not stop:
            tasks = source.more(launcher.slots - len(in_hand))
            launcher.submit(tasks)
            in_hand.update(tasks)
            if not in_hand and source.done:
                return failed
            for end in launcher.wait():
                ended(end)
            if found := list(source.look()):
                halted.update(found)
                launcher.stop(found)
            board.draw(launcher.running())
        launcher.stop(in_hand)
        board.say("stopping: what runs has its checkpoint to write; once more, and it is killed")
        while launcher.running():
            for end in launcher.wait():
                ended(end)
    raise Interrupted(*stop[:1])
