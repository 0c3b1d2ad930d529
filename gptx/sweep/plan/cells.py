"""The cells of a sweep: each is a plain command, which is composed, named and checked before anything starts.

A cell is one combination of values. Cells that differ only in their seeds form an arm.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from gptx.cli import log
from gptx.config.compose import Schemas, compose
from gptx.config.identity import run_name
from gptx.config.overrides import key_of
from gptx.config.plain_dict import SEEDS, plain_dict
from gptx.data import from_config
from gptx.errors import ConfigError, NotTokenised, reason
from gptx.runs.folder import RunFolder
from gptx.runs.preflight_facts import RunFacts
from gptx.runs.provenance import own_modules
from gptx.sweep.execute.isolated import map_isolated
from gptx.sweep.execute.launcher import Task
from gptx.sweep.state.folder import PlannedCell
from gptx.training.preflight import preflight
from gptx.training.run_location import Location, locate

if TYPE_CHECKING:
    from gptx.hardware.device import Machine

PROGRESS_FROM = 20  # cells; composing that many takes seconds, so a progress bar is shown


@dataclass
class Cell:
    """One combination of a sweep.

    Attributes:
        overrides: ``python -m gptx.run *overrides`` is this run.
        title: the overrides in which it differs from the other cells.
        arm: ``title`` without the seeds.
        cfg: composed and checked; empty if that failed.
        folder: the run folder; None if the config has no folder because it is wrong.
        rejection: the reason why the cell cannot run, in one line; empty if it can.
        facts: the facts that preflight found; None if the cell is rejected, finished, or not checked yet.
        modules: the user's own modules that the run loads, and their files.
        memory_bytes: estimated peak memory of each process, in bytes; None if unknown.
        note: a description of what `match` changed in the config; empty if nothing.
        identity: the run's identity; empty if the config has no folder.
    """

    overrides: list[str]
    title: str
    arm: str
    cfg: DictConfig
    folder: RunFolder | None
    rejection: str = ""
    facts: RunFacts | None = None
    modules: dict[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None
    note: str = ""
    identity: str = ""

    @property
    def done(self) -> bool:
        return bool(self.folder and self.folder.finished() and not self.cfg.force)

    @property
    def name(self) -> str:
        """What the name of a sweep is built from. It does not depend on which runs exist."""
        return f"{run_name(self.cfg)}-{self.identity}" if self.identity else " ".join(self.overrides)

    @property
    def checked(self) -> RunFacts:
        """The facts of a cell that has been checked."""
        assert self.facts is not None
        return self.facts

    def create_folder(self) -> None:
        """Create the folder of the run, so that every other spelling of its config finds this folder. If another
        command has created it since the cell was composed, its folder is used.

        Raises:
            RunFailed: the folder cannot be written.
        """
        assert self.folder is not None
        self.folder = Location(self.folder, self.identity).create_folder().folder

    def task(self, common: Sequence[str]) -> Task:
        """The task that a launcher starts. ``common``: overrides that all runs of the sweep get; those of the cell take
        precedence."""
        assert self.folder is not None
        processes, device = self.checked.processes, self.checked.hardware.device
        restarts, modules = self.cfg.strategy.get("restarts", 0), tuple(self.modules.items())
        return Task(self.title, self.folder.path, (*common, *self.overrides), processes, device, restarts, modules)

    def planned(self) -> PlannedCell:
        """The cell as the sweep's plan.json stores it."""
        return PlannedCell(
            title=self.title,
            arm=self.arm,
            run=f"{self.cfg.study}/{self.folder.path.name}" if self.folder else None,
            overrides=tuple(self.overrides),
            rejection=self.rejection,
            note=self.note,
            processes=self.facts.processes if self.facts else None,
            steps=self.cfg.trainer.max_steps if self.cfg else 0,
        )


def compose_cells(combinations: Sequence[Sequence[str]]) -> list[Cell]:
    """Compose and name the cells. A cell that cannot be composed is rejected; combinations that compute the
    same are one cell.

    Raises:
        ConfigError: no combination can be composed. The message is that of the first combination.
    """
    from rich.progress import track

    from gptx.console import Console

    schemas: Schemas = {}
    named = list(zip(combinations, _titles(combinations), strict=True))
    hidden = len(named) < PROGRESS_FROM or not sys.stderr.isatty()
    tracked = track(named, "composing", console=Console(stderr=True), transient=True, disable=hidden)
    cells = [_compose(list(overrides), *names, schemas) for overrides, names in tracked]
    if cells and not any(cell.cfg for cell in cells):
        raise ConfigError(cells[0].rejection)
    return list({_computation(cell): cell for cell in reversed(cells)}.values())[::-1]


def _computation(cell: Cell) -> tuple[object, ...]:
    """A key, equal for cells of one study that compute the same, whatever their folders are named."""
    return (cell.folder.path.parent, cell.identity) if cell.folder else (id(cell),)


def _titles(combinations: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Title and arm of each combination. All combinations have the same keys in the same order."""
    varies = [len(set(column)) > 1 for column in zip(*combinations, strict=True)]
    varied = [list(compress(overrides, varies)) for overrides in combinations]
    arms = [" ".join(override for override in overrides if key_of(override) not in SEEDS) for overrides in varied]
    return [(" ".join(overrides) or "the only run", arm) for overrides, arm in zip(varied, arms, strict=True)]


def _compose(overrides: list[str], title: str, arm: str, schemas: Schemas | None = None) -> Cell:
    cell = Cell(overrides, title, arm, OmegaConf.create(), None)
    try:
        cell.cfg = compose(overrides, schemas)
        location = locate(cell.cfg)
        cell.identity = location.identity
        cell.folder = location.folder if cell.cfg.force else location.existing
        location.check(cell.cfg.force)
    except (Exception, SystemExit) as error:  # a missing text, or a corpus class that fails: other cells may be fine
        cell.rejection = reason(error)
    return cell


def with_overrides(cell: Cell, overrides: Sequence[str], note: str) -> Cell:
    """The cell with further overrides, composed again under the same title."""
    changed = _compose([*cell.overrides, *overrides], cell.title, cell.arm)
    changed.note = note
    return changed


def warn_no_estimate(title: str) -> Callable[[str], None]:
    """Return a function that warns why the memory or time of a cell could not be estimated. The cell still runs."""
    return lambda why: log.warning("no estimate of %s: %s", title, why)


@dataclass(frozen=True)
class _Checked:
    """The result of checking a config: its facts, or the reason why it is rejected. ``tokens_missing``: the text must
    be tokenised first."""

    facts: RunFacts | None = None
    modules: dict[str, str] = field(default_factory=dict)
    rejection: str = ""
    tokens_missing: bool = False


def check_cells(cells: Iterable[Cell], machine: "Machine | None") -> None:
    """Check every cell with `preflight`, once per arm. Texts that are not tokenised are tokenised here.

    Args:
        machine: the machine that the runs are for, if it is not this one.
    """
    arms: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.rejection and not cell.done:
            arms.setdefault(cell.arm, []).append(cell)
    waiting = _check_arms(list(arms.values()), machine)
    for arm in waiting:
        rejection = _tokenise(arm[0].cfg)
        for cell in arm:
            cell.rejection = rejection
    _check_arms([arm for arm in waiting if not arm[0].rejection], machine)


def _check_arms(arms: Sequence[list[Cell]], machine: "Machine | None") -> list[list[Cell]]:
    """Store facts or rejection in all cells of each arm; returns the arms whose text must be tokenised first."""
    work = [(plain_dict(arm[0].cfg), machine) for arm in arms]
    waiting = []
    results = map_isolated(_check, work, on_failure=lambda why: _Checked(rejection=why))
    for arm, checked in zip(arms, results, strict=True):
        for cell in arm:
            cell.rejection, cell.facts, cell.modules = checked.rejection, checked.facts, checked.modules
        if checked.tokens_missing:
            waiting.append(arm)
    return waiting


def _check(work: tuple[dict[str, Any], "Machine | None"]) -> _Checked:
    plain, machine = work
    try:
        facts = preflight(OmegaConf.create(plain), machine, make=False).facts
    except NotTokenised:
        return _Checked(tokens_missing=True)
    return _Checked(facts, own_modules())


def _tokenise(cfg: DictConfig) -> str:
    """Tokenise a config's text in this process, with a progress bar, because it may take hours. Returns why it failed;
    empty on success."""
    try:
        from_config.tokens_of(cfg, quiet=False)
    except (Exception, SystemExit) as error:
        return reason(error)
    return ""
