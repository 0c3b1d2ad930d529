"""`sweep.lr=[1e-3,3e-3]`: try these learning rates for every arm, and compare the arms at their best rates.

A comparison at a single rate favours the arm that this rate suits. The rates are tried with sweep.lr_seeds seeds that
the grid does not have; the best one has the lowest mean validation loss at the end of these runs, on the selection
half. The arm then trains at this rate with the seeds of the grid; only these runs are compared, on the report half.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from gptx.config.overrides import key_of
from gptx.console import Console, VisibleText
from gptx.errors import ConfigError
from gptx.runs.folder import RunFolder
from gptx.runs.metrics import selection
from gptx.runs.records import RunStatus
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.final_runs import finished_runs, record_tuning
from gptx.sweep.state.folder import PlannedCell, Sweep, SweepPlan

KEY = "optim.lr"


@dataclass(frozen=True)
class RateChoice:
    """The results of one arm at each learning rate, and the rate that is chosen for it.

    Attributes:
        arm: the overrides of the arm, without the rate.
        losses: {learning rate, ascending: {folder of a finished run: its loss on the selection half}}.
        seeds: number of planned runs at each rate.
        final: {learning rate: folders of the finished runs with the seeds of the grid}.
    """

    arm: str
    losses: dict[float, dict[Path, float]]
    seeds: int
    final: dict[float, list[Path]] = field(default_factory=dict)

    @property
    def best(self) -> float | None:
        """The rate with the lowest mean loss, the smaller one if two are equal; None if no run has finished. A rate
        with missing runs (they may have diverged) is considered only if no rate is complete."""
        means = {rate: mean(runs.values()) for rate, runs in self.losses.items() if runs}
        return min(self.complete or means, key=means.__getitem__, default=None)

    @property
    def complete(self) -> list[float]:
        """The rates at which all runs have finished."""
        return [rate for rate, runs in self.losses.items() if len(runs) == self.seeds]

    @property
    def compared(self) -> list[Path]:
        """The finished runs with which the arm is compared to others."""
        return [] if self.best is None else self.final.get(self.best, [])

    @property
    def runs(self) -> list[Path]:
        """All finished runs."""
        return [run for runs in (*self.losses.values(), *self.final.values()) for run in runs]


def check_rates(rates: Sequence[Any]) -> list[float]:
    """Return the rates as numbers in ascending order.

    Raises:
        ConfigError: the rates are not two or more different positive numbers.
    """
    given = f"sweep.lr={_list(rates)}"
    for rate in rates:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ConfigError(f"{given}: {rate!r} is not a learning rate; expected numbers above 0, e.g. [1e-3,3e-3]")
    if len(rates) == 1:
        raise ConfigError(f"{given} leaves nothing to choose; {KEY}={rates[0]!r} sets the rate of all arms")
    if len({float(rate) for rate in rates}) < len(rates):
        raise ConfigError(f"{given} contains a rate twice; give each rate once")
    return sorted(map(float, rates))


def with_rates(combinations: Sequence[Sequence[str]], rates: Sequence[Any]) -> list[list[str]]:
    """Return every combination of overrides with every learning rate added.

    Raises:
        ConfigError: the rates are wrong, or a combination sets its own rate.
    """
    for overrides in combinations:
        if own := [override for override in overrides if key_of(override) == KEY]:
            raise ConfigError(f"{own[0]} and sweep.lr={_list(rates)} both set the learning rate; remove one of them")
    return [[*overrides, f"{KEY}={rate!r}"] for overrides in combinations for rate in check_rates(rates)]


def show_choices(sweep: Sweep) -> list[Path]:
    """Print the losses of every arm by rate and record which runs are to be compared: those at the best rates with the
    seeds of the grid, which are returned."""
    choices = choose(sweep.plan, sweep.outputs)
    console = Console()
    console.print(table(choices))
    for warning in warnings(choices):
        console.print(f"! {warning}", style="yellow")
    compared = [run for choice in choices for run in choice.compared]
    record_tuning(sweep, compared, [run for choice in choices for run in choice.runs if run not in compared])
    return compared


def winners(cells: Iterable[Cell], plan: SweepPlan, outputs: Path) -> list[Cell]:
    """A cell of every arm at its best rate. ``cells``: those that try the rates."""
    best = {choice.arm: choice.best for choice in choose(plan, outputs)}
    at_best = [cell for cell in cells if best.get(without_rate(cell.arm)) == _rate(cell.planned())]
    return list({cell.arm: cell for cell in at_best}.values())


def choose(plan: SweepPlan, outputs: Path) -> list[RateChoice]:
    """Choose the learning rate of every arm from the results in its run folders, in the order of the cells. In a sweep
    of an earlier version, the runs that choose a rate are also those that are compared."""
    arms: dict[str, list[PlannedCell]] = {}
    for cell in plan.cells:
        if not cell.rejection:
            arms.setdefault(without_rate(cell.arm), []).append(cell)
    return [_choice(arm, its_cells, outputs, plan.has_final_cells) for arm, its_cells in arms.items()]


def without_rate(arm: str) -> str:
    """The name of an arm without its learning rate."""
    return re.sub(rf"(^| ){re.escape(KEY)}=\S+", "", arm).strip()


def _choice(arm: str, cells: list[PlannedCell], outputs: Path, has_final: bool) -> RateChoice:
    tried = _by_rate(cell for cell in cells if not cell.is_final)
    final = _by_rate(cell for cell in cells if cell.is_final) if has_final else tried
    losses = {rate: _losses(outputs / cell.run for cell in at_rate if cell.run) for rate, at_rate in tried.items()}
    return RateChoice(
        arm,
        losses,
        max(map(len, tried.values()), default=0),
        {rate: finished_runs(at_rate, outputs) for rate, at_rate in final.items()},
    )


def _by_rate(cells: Iterable[PlannedCell]) -> dict[float, list[PlannedCell]]:
    found: dict[float, list[PlannedCell]] = {}
    for cell in cells:
        found.setdefault(_rate(cell), []).append(cell)
    return dict(sorted(found.items()))


def _rate(cell: PlannedCell) -> float:
    """The learning rate that `with_rates` gave the cell."""
    return float(next(override.partition("=")[2] for override in cell.overrides if key_of(override) == KEY))


def _losses(runs: Iterator[Path]) -> dict[Path, float]:
    """The losses of the finished runs on the selection half; infinite for a run that diverged."""
    losses = {}
    for run in runs:
        result = RunFolder(run).result()
        if result and result.status == RunStatus.FINISHED:
            loss = selection("val_loss", result)
            losses[run] = loss if loss is not None and math.isfinite(loss) else math.inf
    return losses


def warnings(choices: Sequence[RateChoice]) -> Iterator[str]:
    """Warnings about uncertain choices: missing runs, and a best rate that is the smallest or the largest one tried."""
    for choice in choices:
        name, best, rates = choice.arm or "the only arm", choice.best, list(choice.losses)
        if best is None:
            yield f"{name}: no run has finished, so there is no best learning rate"
            continue
        yield from _missing(choice, name)
        if best in (rates[0], rates[-1]) and len(rates) > 1:
            extreme = "largest" if best == rates[-1] else "smallest"
            yield (
                f"{name}: the best learning rate {best:g} is the {extreme} one tried, so a better one may lie beyond; "
                f"try sweep.lr={_list(_extended(rates, best))}"
            )


def _missing(choice: RateChoice, name: str) -> Iterator[str]:
    missing = {rate: choice.seeds - len(runs) for rate, runs in choice.losses.items()}
    if any(missing.values()):
        counts = ", ".join(f"{n} of {choice.seeds} at {rate:g}" for rate, n in missing.items() if n)
        basis = "rates at which all runs have finished" if choice.complete else "finished runs only"
        yield f"{name}: the best learning rate {choice.best:g} was chosen among {basis}; missing runs: {counts}"


def _extended(rates: list[float], best: float) -> list[float]:
    """Return the rates and one more: below ``best`` if that is the smallest rate, above it if it is the largest."""
    if best == rates[-1]:
        return [*rates, float(f"{best * rates[-1] / rates[-2]:.1g}")]
    return [float(f"{best * rates[0] / rates[1]:.1g}"), *rates]


def table(choices: Sequence[RateChoice]) -> Table:
    """Mean losses of the selection half by arm and rate; an arm's best one is marked; a dash: no run has finished."""
    rates = sorted({rate for choice in choices for rate in choice.losses})
    shown = Table("arm", title="val loss of the selection half by learning rate (* best)")
    for rate in rates:
        shown.add_column(f"{rate:g}", justify="right")
    for choice in choices:
        row = [_figure(choice, rate) for rate in rates]
        shown.add_row(choice.arm or "the only arm", *row)
    return shown


def _figure(choice: RateChoice, rate: float) -> VisibleText:
    if not (losses := choice.losses.get(rate)):
        return VisibleText("-")
    figure = f"{mean(losses.values()):.4f}"
    return VisibleText(f"*{figure}", "bold") if rate == choice.best else VisibleText(figure)


def _list(rates: Sequence[Any]) -> str:
    return f"[{','.join(f'{rate:g}' if isinstance(rate, float) else str(rate) for rate in rates)}]"
