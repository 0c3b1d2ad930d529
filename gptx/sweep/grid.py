"""The grid: every combination of a multirun command line, checked whole before any is started, one process a run.

What is finished is shown by its run folder and not run again: the same command goes on with a sweep.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.errors import ConfigError
from gptx.runs.json_log import JsonLog
from gptx.sweep.base import Base, close, following, survey
from gptx.sweep.execute.launcher import Launcher, make
from gptx.sweep.execute.loop import Listed, drive
from gptx.sweep.plan import matching, rates
from gptx.sweep.plan.cells import Cell, cells, check, refit
from gptx.sweep.search import halving
from gptx.sweep.search.halving import Halving
from gptx.sweep.state.dashboard import Board
from gptx.sweep.state.folder import Sweep, name_of

if TYPE_CHECKING:
    from gptx.hardware.device import Machine


class GridSweeper(Base):
    """`python -m gptx.run -m attention=mha,gqa seed=0,1`."""

    kind = "grid"

    def _run(self, words: list[str], whole: list[str]) -> int:
        """Check all cells, run those that can be, compare what is finished and list the failures."""
        combinations = self._combinations(words)
        found = cells(combinations)
        options = self._options(next(cell.overrides for cell in found if cell.cfg), whole)
        if options.sweep.lr:
            found = cells(rates.spread(combinations, options.sweep.lr))
        launcher = make(self.hydra.launcher)
        found = self._matched(found, options, launcher.there)
        meant = [cell.folder.path.name if cell.folder else " ".join(cell.overrides) for cell in found]
        sweep = Sweep(Path(options.paths.outputs), name_of(options.study, meant))
        launcher.open(sweep, options.sweep, len(found))
        check(found, launcher.there)
        if options.sweep.halving:
            if launcher.detached:
                raise ConfigError("sweep.halving decides while runs go on: hydra.launcher.wait=true stays and watches")
            halving.check([cell for cell in found if not cell.refusal], options.sweep.factor)
        seconds = survey(found, launcher, options, sweep)
        refused = [cell for cell in found if cell.refusal]
        if options.dry_run:
            return 2 if refused and not options.sweep.skip_invalid else 0
        _explain(len(refused), len(found), options)
        with sweep.work(self._plan(found, options), any(cell.cfg.get("force") for cell in found)) as book:
            for cell in refused:
                book.write("refused", title=cell.title, reason=cell.refusal)
            failed, left_out = self._train(found, options, launcher, book, seconds)
        done = [cell.folder.path for cell in found if cell.folder and cell.folder.finished()]
        if options.sweep.lr:
            done = rates.chosen(sweep.plan["cells"], sweep.outputs, left_out)
        return close(done, found, failed, left_out)

    @staticmethod
    def _matched(found: list[Cell], options: DictConfig, there: "Machine | None") -> list[Cell]:
        """All arms with the same budget, where that is asked for."""
        if options.variant.match == "none":
            return found
        able = [cell for cell in found if not cell.refusal]
        solved = matching.solve([cell.cfg for cell in able], options, there) if able else []
        fits = dict(zip(map(id, able), solved, strict=True))
        for i, cell in enumerate(found):
            fit = fits.get(id(cell))
            if isinstance(fit, str):
                cell.refusal = fit
            elif fit:
                found[i] = refit(cell, fit.words, fit.note)
        return found

    def _train(
        self, found: list[Cell], options: DictConfig, launcher: Launcher, book: JsonLog, seconds: float
    ) -> tuple[dict[str, str], dict[str, str]]:
        """By title: why cells failed, and why others were left out."""
        able = [cell for cell in found if not cell.refusal]
        todo = [cell for cell in able if not cell.done]
        if not todo:
            return {}, {}
        tasks = [cell.task(self._words()) for cell in todo]
        if launcher.detached:
            with launcher:
                launcher.submit(tasks)
            print(f"python -m gptx.sweep status {launcher.sweep.name} tells how they stand")
            return {}, {}
        rungs = list(launcher.sweep.records("begin", "rung"))
        halves = Halving(able, self._words(), options.sweep.factor, book, rungs) if options.sweep.halving else None
        steps = {task.folder: cell.cfg.trainer.max_steps for task, cell in zip(tasks, todo, strict=True)}
        board = Board(len(able), len(able) - len(todo), steps, seconds)
        folders = [cell.folder.path for cell in able if cell.folder]
        with following(options, folders):
            failed = drive(halves or Listed(tasks), launcher, book, board, options.sweep.retry)
        return {task.title: why for task, why in failed.items()}, halves.left_out() if halves else {}


def _explain(refused: int, of: int, options: DictConfig) -> None:
    """Nothing is started while a refusal stands, unless that is allowed."""
    if refused == of:
        raise ConfigError(f"all {of} combinations are refused (see above)")
    if refused and not options.sweep.skip_invalid:
        raise ConfigError(
            f"{refused} of {of} combinations are refused (see above), so nothing was started: mend them, or "
            "sweep.skip_invalid=true runs the rest"
        )
