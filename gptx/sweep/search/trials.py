"""The trials of a search: a source for the sweep's loop that asks optuna for the next ones and tells it how they ended.

A trial is a point of the space and the run that trains it. What has been asked for and not been told, because the
command was killed, comes first when it is given again: the same values, so the same run folder, so the run goes on.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from gptx.errors import ConfigError
from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.runs.json_log import JsonLog
from gptx.runs.records import MetricsRecord
from gptx.sweep.execute.launcher import End, Launcher, Task
from gptx.sweep.plan.cells import Cell, cells, check
from gptx.sweep.plan.memory_fit import check_memory, fit
from gptx.sweep.search.space import Space
from gptx.sweep.search.study import Keys, sampler
from gptx.sweep.state.dashboard import Board
from gptx.sweep.state.folder import Sweep

PATIENCE = 25  # points refused one after the other, when a space is given up


def refused(trial: FrozenTrial) -> str:
    """Why a trial could not be tried; "": it was."""
    return str(trial.user_attrs.get("refused", "")) if trial.state == TrialState.PRUNED else ""


@dataclass
class _Run:
    """One on its way, for one trial or for several that try the same.

    Attributes:
        cell: what it is.
        offset: how far its journal was read.
        pruned: it was told to stop.
    """

    task: Task
    cell: Cell
    trials: list[optuna.Trial] = field(default_factory=list)
    offset: int = 0
    pruned: bool = False


class Trials:
    """A `Source`.

    Args:
        words: of every run, the launcher's.
        follow: called with the folder of a run before that begins.
    """

    def __init__(
        self,
        study: optuna.Study,
        keys: Keys,
        space: Space,
        words: Sequence[str],
        launcher: Launcher,
        sweep: Sweep,
        book: JsonLog,
        board: Board,
        follow: Callable[[Path], None],
    ) -> None:
        self._study, self._keys, self._space, self._words = study, keys, space, words
        self._sweep, self._book, self._board = sweep, book, board
        self._there, self._here, self._follow = launcher.there, launcher.here, follow
        self._rooms: dict[str, int] = {}
        self._held: list[tuple[optuna.Trial, Cell, Path]] = []  # at most one: it waits until there is memory for it
        self._left = deque(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
        self._count = sum(not refused(trial) for trial in study.get_trials(deepcopy=False))
        self._runs: dict[Path, _Run] = {}
        self._refused = 0  # in a row
        self.given_up = ""

    @property
    def done(self) -> bool:
        more = self._left or self._count < self._keys.n_trials
        return not self._held and (bool(self.given_up) or not more)

    def more(self, room: int) -> list[Task]:
        """One at most, so that the loop heeds what happens between two."""
        if room <= 0 or self.done:
            return []
        if not self._held:
            trial = self._ask()
            try:
                self._held = [(trial, *self._cell(trial))]
            except ConfigError as error:
                self._refuse(trial, str(error))
                return []
        if not fit([self._held[0][1], *(run.cell for run in self._runs.values())], self._rooms):
            return []
        return self._begin(*self._held.pop())

    def _ask(self) -> optuna.Trial:
        if self._left:
            number = self._left[0].number
            self._study.sampler = sampler(self._keys, number)
            return optuna.Trial(self._study, self._left.popleft()._trial_id)
        self._study.sampler = sampler(self._keys, len(self._study.get_trials(deepcopy=False)))
        self._count += 1
        return self._study.ask()

    def _cell(self, trial: optuna.Trial) -> tuple[Cell, Path]:
        """The checked cell of a trial, and its folder.

        Raises:
            ConfigError: it is refused.
        """
        tried = [axis.suggest(trial) for axis in self._space.axes]
        words, title = [*self._space.fixed, *tried], " ".join([f"trial {trial.number}:", *tried])
        trial.set_user_attr("title", title)
        trial.set_user_attr("words", words)
        [cell] = cells([words])
        check([cell], self._there)
        check_memory([cell], 1, self._here, self._rooms)
        if cell.refusal or cell.folder is None:
            raise ConfigError(cell.refusal)
        cell.title = cell.arm = title
        trial.set_user_attr("run", cell.record()["run"])
        return cell, cell.folder.path

    def _begin(self, trial: optuna.Trial, cell: Cell, folder: Path) -> list[Task]:
        self._refused = 0
        self._sweep.add(cell.record())
        if cell.done:
            self._tell(trial, folder, "")
            self._board.ended(End(Task(cell.title, folder, (), 1, ""), ""), again=False)
            return []
        if folder in self._runs:  # another trial tries the same just now
            self._runs[folder].trials.append(trial)
            return []
        self._follow(folder)
        self._board.expect(folder, cell.cfg.trainer.max_steps)
        run = self._runs[folder] = _Run(cell.task(self._words), cell, [trial])
        self._report(run)  # what it did before it was interrupted: it is not stopped by that before it goes on
        return [run.task]

    def _refuse(self, trial: optuna.Trial, why: str) -> None:
        """Not counted, and told as pruned: tpe learns from that where not to look, and from a failure it would not."""
        trial.set_user_attr("refused", why)
        self._study.tell(trial, state=TrialState.PRUNED)
        title = str(trial.user_attrs["title"])
        self._book.write("refused", title=title, reason=why)
        self._board.say(f"{title}: refused: {why}")
        self._count -= 1
        self._refused += 1
        if self._refused >= PATIENCE:
            self.given_up = f"{PATIENCE} points one after the other were refused, the last one because {why}"

    def told(self, end: End) -> None:
        run = self._runs.pop(end.task.folder)
        for trial in run.trials:
            self._tell(trial, end.task.folder, end.reason, run.pruned)

    def _tell(self, trial: optuna.Trial, folder: Path, reason: str, pruned: bool = False) -> None:
        state, values = TrialState.FAIL, None
        if RunFolder(folder).finished():
            result = RunFolder(folder).result()
            found = {metric: getattr(result, metric, None) for metric in self._keys.metrics}
            if wrong := [metric for metric, value in found.items() if value is None or not math.isfinite(value)]:
                reason = f"its result has no finite {wrong[0]}"
            else:
                state, values = TrialState.COMPLETE, [float(value) for value in found.values() if value is not None]
        elif pruned:
            state = TrialState.PRUNED
            self._board.passed()
        if state == TrialState.FAIL:
            trial.set_user_attr("reason", reason or "it left no result")
        self._study.tell(trial, values, state)
        run, title = folder.name, trial.user_attrs["title"]
        self._book.write("trial", number=trial.number, title=title, run=run, state=state.name, values=values)

    def look(self) -> list[Task]:
        return [run.task for run in self._runs.values() if self._keys.curve and not run.pruned and self._hopeless(run)]

    def _hopeless(self, run: _Run) -> bool:
        """Whether a new validation, not the last one, says that the run is to be stopped."""
        new = self._report(run)
        if not new or new[0] >= run.cell.cfg.trainer.max_steps or not run.trials[0].should_prune():
            return False
        run.pruned = True
        self._board.say(f"{run.task.title}: pruned at step {new[0]:,} with {self._keys.curve} {new[1]:.4f}")
        return True

    def _report(self, run: _Run) -> tuple[int, float] | None:
        """Hand what is new in its journal to optuna; step and value of the newest."""
        new = None
        records, run.offset = journal.tail(run.task.folder, run.offset)
        for record in (record for record in records if isinstance(record, MetricsRecord)):
            value = record.values.get(self._keys.curve)
            if value is None:
                continue
            new = record.step, value
            for trial in run.trials:
                if record.step not in trial.storage.get_trial(trial._trial_id).intermediate_values:
                    trial.report(value, record.step)
        return new
