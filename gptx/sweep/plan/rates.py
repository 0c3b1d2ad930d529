"""`sweep.lr=[1e-3,3e-3]`: every arm is trained with each of these rates, and the best of them stands for it.

A comparison at one rate favours the arm that this rate suits. The choice is made by the mean validation loss at the end
of the runs, which the comparison is by as well: a little of what each arm wins by it is luck, and all of them may try
as often.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gptx.config.overrides import key_of
from gptx.errors import ConfigError
from gptx.runs.folder import RunFolder
from gptx.runs.records import RunStatus

KEY = "optim.lr"
Record = Mapping[str, Any]  # of a cell: see `gptx.sweep.plan.cells.Cell.record`


@dataclass(frozen=True)
class Choice:
    """What an arm made of its rates.

    Attributes:
        arm: its words, without the rate.
        ends: by rate, which rise, the folders of its finished runs and their validation losses.
        seeds: how many runs were meant at each rate.
        left: the rates at which halving has left it out.
    """

    arm: str
    ends: dict[float, dict[Path, float]]
    seeds: int
    left: frozenset[float] = frozenset()

    @property
    def best(self) -> float | None:
        """The rate with the lowest mean, of equals the smaller; None: no run has finished. A rate that lacks runs (they
        may have diverged) competes only where none is whole."""
        finished = {rate: mean(runs.values()) for rate, runs in self.ends.items() if runs}
        return min(self.whole or finished, key=finished.__getitem__, default=None)

    @property
    def whole(self) -> list[float]:
        """The rates of which all runs have finished."""
        return [rate for rate, runs in self.ends.items() if len(runs) == self.seeds]

    @property
    def runs(self) -> list[Path]:
        """The folders that stand for the arm in a comparison."""
        return [] if self.best is None else list(self.ends[self.best])


def check(rates: Sequence[Any]) -> list[float]:
    """As numbers, in rising order.

    Raises:
        ConfigError: they are no grid of learning rates.
    """
    for rate in rates:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ConfigError(f"sweep.lr={_list(rates)}: {rate!r} is no rate, expected numbers above 0, as [1e-3,3e-3]")
    if len(rates) == 1:
        raise ConfigError(f"sweep.lr={_list(rates)} leaves nothing to choose: {KEY}={rates[0]!r} sets it for all arms")
    if len({float(rate) for rate in rates}) < len(rates):
        raise ConfigError(f"sweep.lr={_list(rates)} names a rate twice")
    return sorted(map(float, rates))


def spread(combinations: Sequence[Sequence[str]], rates: Sequence[Any]) -> list[list[str]]:
    """Every combination with every rate.

    Raises:
        ConfigError: the rates are none, or a combination has one of its own.
    """
    for words in combinations:
        if own := [word for word in words if key_of(word) == KEY]:
            raise ConfigError(f"{own[0]} and sweep.lr={_list(rates)} both set the rate: leave one of them out")
    return [[*words, f"{KEY}={rate!r}"] for words in combinations for rate in check(rates)]


def chosen(cells: Sequence[Record], outputs: Path, left: Collection[str]) -> list[Path]:
    """Show what every arm made of its rates; the runs that stand for the arms."""
    choices = choose(cells, outputs, left)
    console = Console(highlight=False)
    console.print(table(choices))
    for note in notes(choices):
        console.print(f"! {note}", style="yellow", markup=False)
    return [run for choice in choices for run in choice.runs]


def choose(cells: Sequence[Record], outputs: Path, left: Collection[str] = ()) -> list[Choice]:
    """One choice an arm, in the order of the cells, from what lies in their run folders; ``left``: titles of those that
    halving has left out."""
    arms: dict[str, list[Record]] = {}
    for cell in cells:
        if not cell["refusal"]:  # cells of an arm differ in rate and seed only
            arms.setdefault(without_rate(cell["arm"]), []).append(cell)
    return [_choice(arm, of, outputs, left) for arm, of in arms.items()]


def without_rate(arm: str) -> str:
    """What the cells of an arm that differ in rate only have in common."""
    return re.sub(rf"(^| ){re.escape(KEY)}=\S+", "", arm).strip()


def _choice(arm: str, cells: list[Record], outputs: Path, left: Collection[str]) -> Choice:
    rates = sorted(set(map(_rate, cells)))
    at = {rate: [cell for cell in cells if _rate(cell) == rate] for rate in rates}
    ends = {rate: dict(end for cell in of if (end := _finished(outputs / cell["run"]))) for rate, of in at.items()}
    out = frozenset(rate for rate, of in at.items() if all(cell["title"] in left for cell in of))
    return Choice(arm, ends, max(map(len, at.values())), out)


def _rate(cell: Record) -> float:
    """Which `spread` has written."""
    return float(next(word.partition("=")[2] for word in cell["words"] if key_of(word) == KEY))


def _finished(run: Path) -> tuple[Path, float] | None:
    result = RunFolder(run).result()
    if result is None or result.status != RunStatus.FINISHED:
        return None
    loss = result.val_loss
    return run, loss if loss is not None and math.isfinite(loss) else math.inf


def notes(choices: Sequence[Choice]) -> Iterator[str]:
    """What a reader of the choice has to know."""
    for choice in choices:
        name, best, rates = choice.arm or "the only arm", choice.best, list(choice.ends)
        if choice.left == set(rates):
            continue
        if best is None:
            yield f"{name}: no run has finished, so no rate is its best"
            continue
        lost = {rate: choice.seeds - len(runs) for rate, runs in choice.ends.items() if rate not in choice.left}
        if any(lost.values()):
            missing = ", ".join(f"{n} of {choice.seeds} at {rate:g}" for rate, n in lost.items() if n)
            of = "rates of which all runs" if choice.whole else "runs that"
            yield f"{name}: the best rate is {best:g} of those {of} have finished; missing: {missing}"
        if best in (rates[0], rates[-1]) and len(rates) > 1:
            top = best == rates[-1]
            beyond = best * (rates[-1] / rates[-2] if top else rates[0] / rates[1])
            wider = [*rates, float(f"{beyond:.1g}")] if top else [float(f"{beyond:.1g}"), *rates]
            extreme = "largest" if top else "smallest"
            yield f"{name}: the best rate {best:g} is the {extreme} tried: sweep.lr={_list(wider)} would tell"


def table(choices: Sequence[Choice]) -> Table:
    """Mean validation losses, arm by rate, the best of an arm marked."""
    rates = sorted({rate for choice in choices for rate in choice.ends})
    shown = Table("arm", title="val loss by learning rate")
    for rate in rates:
        shown.add_column(f"{rate:g}", justify="right")
    for choice in choices:
        row = [_figure([*choice.ends.get(rate, {}).values()], rate == choice.best) for rate in rates]
        shown.add_row(escape(choice.arm) or "the only one", *row)
    return shown


def _figure(losses: list[float], best: bool) -> str:
    figure = f"{mean(losses):.4f}" if losses else "-"
    return f"[bold]*{figure}[/]" if best else figure


def _list(rates: Sequence[Any]) -> str:
    return f"[{','.join(f'{rate:g}' if isinstance(rate, float) else str(rate) for rate in rates)}]"
