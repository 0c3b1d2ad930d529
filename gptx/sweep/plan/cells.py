"""The cells of a sweep: each is a plain command, which is composed, named and checked before anything starts.

A cell is one combination of values. Cells that differ only in their seeds form an arm.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from gptx.cli import log
from gptx.config.compose import compose_plain, initialised
from gptx.config.compositions import Compositions
from gptx.config.identity import run_name
from gptx.config.overrides import key_of
from gptx.config.plain_dict import SEEDS, PlainConfig
from gptx.errors import ConfigError, reason
from gptx.runs.folder import RunFolder
from gptx.runs.preflight_facts import RunFacts
from gptx.sweep.execute.launcher import Task
from gptx.sweep.state.folder import PlannedCell
from gptx.training.run_location import Known, Location, locate

PROGRESS_FROM = 20  # cells; a progress bar is shown while so many are composed


@dataclass
class Cell:
    """One combination of a sweep.

    Attributes:
        overrides: ``python -m gptx.run *overrides`` is this run.
        title: the overrides in which it differs from the other cells.
        arm: ``title`` without the seeds.
        config: composed and checked, as nested dicts that must not be changed: cells share them; empty if that failed.
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
    config: PlainConfig
    folder: RunFolder | None
    rejection: str = ""
    facts: RunFacts | None = None
    modules: dict[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None
    note: str = ""
    identity: str = ""

    @property
    def done(self) -> bool:
        return bool(self.folder and self.folder.finished() and not self.config["force"])

    @property
    def name(self) -> str:
        """What the name of a sweep is built from. It does not depend on which runs exist."""
        return f"{run_name(self.config)}-{self.identity}" if self.identity else " ".join(self.overrides)

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
        restarts, modules = self.config["strategy"].get("restarts", 0), tuple(self.modules.items())
        return Task(self.title, self.folder.path, (*common, *self.overrides), processes, device, restarts, modules)

    def planned(self) -> PlannedCell:
        """The cell as the sweep's plan.json stores it."""
        return PlannedCell(
            title=self.title,
            arm=self.arm,
            run=f"{self.config['study']}/{self.folder.path.name}" if self.folder else None,
            overrides=tuple(self.overrides),
            rejection=self.rejection,
            note=self.note,
            processes=self.facts.processes if self.facts else None,
            steps=self.config["trainer"]["max_steps"] if self.config else 0,
        )


def compose_cells(combinations: Sequence[Sequence[str]], compositions: Compositions | None = None) -> list[Cell]:
    """Compose and name the cells. A cell that cannot be composed is rejected; combinations that compute the
    same are one cell.

    Args:
        compositions: sets of options that are composed already; new ones are added.

    Raises:
        ConfigError: no combination can be composed. The message is that of the first combination.
    """
    from rich.progress import track

    from gptx.console import Console

    compositions, known = Compositions() if compositions is None else compositions, Known()
    named = list(zip(combinations, _titles(combinations), strict=True))
    hidden = len(named) < PROGRESS_FROM or not sys.stderr.isatty()
    tracked = track(named, "composing", console=Console(stderr=True), transient=True, disable=hidden)
    with initialised():
        cells = [_compose(list(overrides), *names, compositions, known) for overrides, names in tracked]
    if cells and not any(cell.config for cell in cells):
        raise ConfigError(cells[0].rejection)
    return list({_computation(cell): cell for cell in reversed(cells)}.values())[::-1]


def _computation(cell: Cell) -> tuple[object, ...]:
    """A key, equal for cells of one study that compute the same, whatever their folders are named."""
    return (cell.folder.path.parent, cell.identity) if cell.folder else (id(cell),)


def _titles(combinations: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Title and arm of each combination: the overrides of the keys that have several values."""
    values: dict[str, set[str]] = {}
    for override in chain.from_iterable(combinations):
        if not override.startswith("~"):  # a study's key that only other combinations have
            values.setdefault(key_of(override), set()).add(override)
    varying = {override for given in values.values() if len(given) > 1 for override in given}
    varied = [[override for override in overrides if override in varying] for overrides in combinations]
    arms = [" ".join(override for override in overrides if key_of(override) not in SEEDS) for overrides in varied]
    return [(" ".join(overrides) or "the only run", arm) for overrides, arm in zip(varied, arms, strict=True)]


def _compose(overrides: list[str], title: str, arm: str, compositions: Compositions, known: Known) -> Cell:
    cell = Cell(overrides, title, arm, {}, None)
    try:
        cell.config = compose_plain(overrides, compositions)
        location, force = locate(cell.config, known), cell.config["force"]
        cell.identity = location.identity
        cell.folder = location.folder if force else location.existing
        location.check(force)
    except (Exception, SystemExit) as error:  # a missing text, or a corpus class that fails: other cells may be fine
        cell.rejection = reason(error)
    return cell


def with_overrides(cell: Cell, overrides: Sequence[str], note: str, compositions: Compositions, known: Known) -> Cell:
    """The cell with further overrides, composed again under the same title. ``known``: of all such cells of a sweep."""
    changed = _compose([*cell.overrides, *overrides], cell.title, cell.arm, compositions, known)
    changed.note = note
    return changed


def warn_no_estimate(title: str) -> Callable[[str], None]:
    """Return a function that warns why the memory or time of a cell could not be estimated. The cell still runs."""
    return lambda why: log.warning("no estimate of %s: %s", title, why)
