"""The cells of a sweep: each is one plain command, composed, named and checked before any of them is started."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from gptx.config.compose import Schemas, compose, plain_dict
from gptx.config.overrides import key_of
from gptx.data import from_config
from gptx.errors import ConfigError, NotTokenised, reason
from gptx.runs.codec import to_json
from gptx.runs.folder import RunFolder
from gptx.runs.provenance import own_modules
from gptx.sweep.execute.isolated import each
from gptx.sweep.execute.launcher import Task
from gptx.training.preflight import folder_of, preflight

if TYPE_CHECKING:
    from gptx.hardware.device import Machine

SEEDS = ("seed", "data_seed")
MANY = 20  # combinations: they take seconds to compose
_LATE = "its text is not tokenised"


@dataclass
class Cell:
    """One combination.

    Attributes:
        overrides: ``python -m gptx.run *overrides`` is this run.
        title: the words that set it apart from the others; the whole of them where it is the only one.
        arm: the same without seeds: cells of one arm are repeats.
        cfg: composed and checked; empty where it could not be.
        folder: its run's; None: not even that could be found out.
        refusal: why it cannot be.
        facts: what preflight has found, the user's own ``modules``, and ``memory_bytes`` where that was estimated.
        note: what was solved for it.
    """

    overrides: list[str]
    title: str
    arm: str
    cfg: DictConfig
    folder: RunFolder | None
    refusal: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def done(self) -> bool:
        return bool(self.folder and self.folder.finished() and not self.cfg.force)

    def task(self, words: Sequence[str]) -> Task:
        """As a launcher takes it; ``words`` come first."""
        assert self.folder is not None
        processes, device = self.facts["processes"], self.facts["hardware"]["device"]
        restarts = self.cfg.strategy.get("restarts", 0)
        modules = tuple(self.facts.get("modules", {}).items())
        return Task(self.title, self.folder.path, (*words, *self.overrides), processes, device, restarts, modules)

    def record(self) -> dict[str, Any]:
        """As a sweep's plan has it."""
        return {
            "title": self.title,
            "arm": self.arm,
            "run": f"{self.cfg.study}/{self.folder.path.name}" if self.folder else None,
            "words": self.overrides,
            "refusal": self.refusal,
            "note": self.note,
            "processes": self.facts.get("processes"),
            "steps": self.cfg.trainer.max_steps if self.cfg else 0,
        }


def cells(combinations: Sequence[Sequence[str]]) -> list[Cell]:
    """Composed and named; one that cannot be composed is refused. Combinations that mean one and the same run are one
    cell.

    Raises:
        ConfigError: none of them can be composed: what is wrong with the first.
    """
    from rich.console import Console
    from rich.progress import track

    schemas: Schemas = {}
    named = list(zip(combinations, _titles(combinations), strict=True))
    quiet = len(named) < MANY or not sys.stderr.isatty()
    slowly = track(named, "composing", console=Console(stderr=True), transient=True, disable=quiet)
    found = [_cell(list(words), *title, schemas) for words, title in slowly]
    if found and not any(cell.cfg for cell in found):
        raise ConfigError(found[0].refusal)
    return list({cell.folder.path if cell.folder else id(cell): cell for cell in reversed(found)}.values())[::-1]


def _titles(combinations: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Title and arm of each. They all have the same keys, in the same order."""
    varied = [len(set(column)) > 1 for column in zip(*combinations, strict=True)]
    shown = [list(compress(words, varied)) for words in combinations]
    arms = [" ".join(word for word in words if key_of(word) not in SEEDS) for words in shown]
    return [(" ".join(words) or "the only one", arm) for words, arm in zip(shown, arms, strict=True)]


def _cell(words: list[str], title: str, arm: str, schemas: Schemas | None = None) -> Cell:
    cfg = OmegaConf.create()
    try:
        cfg = compose(words, schemas)
        return Cell(words, title, arm, cfg, folder_of(cfg)[0])
    except (Exception, SystemExit) as error:  # a text that is not there, a corpus whose code breaks: others may be well
        return Cell(words, title, arm, cfg, None, reason(error))


def no_estimate(title: str) -> Callable[[str], None]:
    """Says why nothing is known of a cell beforehand; its run may do better."""
    return lambda why: print(f"gptx: no estimate of {title}: {why}", file=sys.stderr)


def refit(cell: Cell, words: Sequence[str], note: str) -> Cell:
    """The same cell with what was solved for it."""
    again = _cell([*cell.overrides, *words], cell.title, cell.arm)
    again.note = note
    return again


def check(found: Iterable[Cell], there: "Machine | None") -> None:
    """Let every part that knows refuse; cells of one arm are asked once. ``there``: see `Launcher`."""
    arms: dict[str, list[Cell]] = {}
    for cell in found:
        if not cell.refusal and not cell.done:
            arms.setdefault(cell.arm, []).append(cell)
    _ask(list(arms.values()), there)
    late = [arm for arm in arms.values() if arm[0].refusal == _LATE]
    for arm in late:
        refusal = _tokenise(arm[0].cfg)
        for cell in arm:
            cell.refusal = refusal
    _ask([arm for arm in late if not arm[0].refusal], there)


def _ask(arms: Sequence[list[Cell]], there: "Machine | None") -> None:
    """Refusal and facts of each arm, for all of its cells."""
    given = [(plain_dict(arm[0].cfg), there) for arm in arms]
    for arm, told in zip(arms, each(_facts, given, lost=lambda why: (why, {})), strict=True):
        for cell in arm:
            cell.refusal, cell.facts = told


def _facts(given: tuple[dict[str, Any], "Machine | None"]) -> tuple[str, dict[str, Any]]:
    plain, there = given
    try:
        facts = to_json(preflight(OmegaConf.create(plain), there, make=False).facts)
    except NotTokenised:
        return _LATE, {}
    return "", facts | {"modules": own_modules()}


def _tokenise(cfg: DictConfig) -> str:
    """Here, and with a bar: it may take hours. Why it cannot be, if so."""
    try:
        from_config.tokens(cfg, quiet=False)
    except (Exception, SystemExit) as error:
        return reason(error)
    return ""
