"""`sweep.seeds=auto`: every arm trains with sweep.min_seeds seeds, then with one more at a time until its difference
from the baseline is decided, at most with sweep.max_seeds.

The decisions are those of `gptx.statistics.sequential` about the loss of the last validation. They follow from the
results in the run folders, so the same command takes them again.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.config.overrides import key_of
from gptx.errors import ConfigError
from gptx.runs.folder import RunFolder
from gptx.runs.journal import metrics
from gptx.sweep.plan.cells import Cell
from gptx.sweep.state.folder import AutoSeeds, PlannedCell, Sweep, sweeps

if TYPE_CHECKING:  # needs scipy and pandas
    from gptx.statistics.sequential import SequentialDesign, SequentialState

AUTO = "auto"
CURVE = "val/loss"
SEED = "seed"
_KEYS = ("sweep.min_seeds", "sweep.max_seeds", "sweep.margin", "sweep.baseline")


def check_options(options: DictConfig, of_sweep: Sequence[str], grid: Iterable[Sequence[str]]) -> bool:
    """Whether seeds are added until all arms are decided.

    Args:
        of_sweep: the overrides that are options of the sweep.
        grid: the combinations, without seeds.

    Raises:
        ConfigError: options contradict each other.
    """
    sweep = options.sweep
    if not sweep.seeds:
        if given := [override for override in of_sweep if key_of(override) in _KEYS]:
            raise ConfigError(f"{given[0]} is an option of sweep.seeds=auto; add that or remove it")
        return False
    if sweep.seeds != AUTO:
        raise ConfigError(f"sweep.seeds={sweep.seeds}: expected auto; seed=0,1,2 gives the seeds themselves")
    if seeds := [override for overrides in grid for override in overrides if key_of(override) == SEED]:
        raise ConfigError(f"{seeds[0]} and sweep.seeds=auto both set the seeds; remove one of them")
    if sweep.max_seeds < sweep.min_seeds:
        raise ConfigError(f"sweep.max_seeds={sweep.max_seeds}: expected at least sweep.min_seeds={sweep.min_seeds}")
    for key, given in {"sweep.lr": sweep.lr, "sweep.halving": sweep.halving}.items():
        if given:
            raise ConfigError(f"{key} and sweep.seeds=auto both choose what is trained; give one of them")
    return True


def with_seeds(grid: Iterable[Sequence[str]], max_seeds: int) -> list[list[str]]:
    """Every combination with each of the seeds 0, 1, ..., max_seeds - 1."""
    return [[*overrides, f"{SEED}={seed}"] for overrides in grid for seed in range(max_seeds)]


def auto_seeds(cells: Sequence[Cell], options: DictConfig) -> AutoSeeds:
    """The design of a sweep. ``cells``: all, with seeds.

    Raises:
        ConfigError: there is no baseline, or the losses of the arms do not compare.
    """
    able = [cell for cell in cells if not cell.rejection]
    arms = {cell.arm: cell for cell in able}
    if len(arms) < 2:
        raise ConfigError(f"sweep.seeds=auto compares arms with a baseline, but there is {len(arms) or 'no'} arm")
    if len({(cell.arm, cell.config["seed"]) for cell in able}) < len(able):
        raise ConfigError("sweep.seeds=auto sets the seeds, so data_seed cannot have several values; give one or none")
    for group in ("tokenizer", "data"):
        if any(cell.config.get(group) != able[0].config.get(group) for cell in able):
            raise ConfigError(f"sweep.seeds=auto compares losses per token, so {group} cannot vary; use one {group}")
    sweep = options.sweep
    baseline = _baseline(sweep.baseline, list(arms.values()), cells[0])
    return AutoSeeds(
        min_seeds=sweep.min_seeds, max_seeds=sweep.max_seeds, margin=float(sweep.margin), baseline=baseline
    )


def _baseline(given: str, arms: Sequence[Cell], first: Cell) -> str:
    """The arm that sweep.baseline names by some of its overrides or values; without a name, the first of the grid."""
    if not given:
        if first.rejection:
            raise ConfigError(f"the first arm, {first.arm}, is the baseline but is rejected; give sweep.baseline=")
        return first.arm
    found = [cell.arm for cell in arms if {*given.split()} <= _names(cell)]
    if len(found) != 1:
        known = " | ".join(cell.arm for cell in arms)
        raise ConfigError(
            f'sweep.baseline="{given}" names {len(found) or "none"} of the arms, expected one of: {known}'
        )
    return found[0]


def _names(cell: Cell) -> set[str]:
    """The overrides of a cell, and their values alone, which need no quotes on a command line."""
    return {*cell.overrides, *(override.partition("=")[2] for override in cell.overrides)}


def design_of(auto: AutoSeeds) -> "SequentialDesign":
    """The design, as `gptx.statistics` knows it."""
    from gptx.statistics.sequential import SequentialDesign

    return SequentialDesign(min_seeds=auto.min_seeds, max_seeds=auto.max_seeds, margin=auto.margin)


def changed_design(auto: AutoSeeds, cells: Sequence[PlannedCell], sweep: Sweep) -> str:
    """A warning if an earlier sweep has looked at some of these runs with another design; else empty."""
    runs = {cell.run for cell in cells}
    for other in sweeps(sweep.outputs):
        try:
            plan = other.plan
        except ConfigError:  # damaged; `gptx sweep list` reports it
            continue
        if plan.auto and plan.auto != auto and runs & {cell.run for cell in plan.cells}:
            before, now = _keys(plan.auto), _keys(auto)
            changed = ", ".join(f"{key} was {before[key]}" for key in now if before[key] != now[key])
            return f"an earlier sweep used these runs with another design ({changed}): 95 % is no longer guaranteed"
    return ""


def _keys(auto: AutoSeeds) -> dict[str, object]:
    return {key: getattr(auto, key.partition(".")[2]) for key in _KEYS}


def seed_of(cell: PlannedCell) -> int:
    """The seed that `with_seeds` gave the cell."""
    return int(next(override.partition("=")[2] for override in cell.overrides if key_of(override) == SEED))


def last_loss(run: Path) -> float | None:
    """The loss of the last validation of a finished run, in nats per token; None if the run is not finished."""
    if not RunFolder(run).finished():
        return None
    values = [record.values[CURVE] for record in metrics(run) if CURVE in record.values]
    return values[-1] if values else float("nan")


def follow(
    auto: AutoSeeds,
    cells: Iterable[PlannedCell],
    outputs: Path,
    failed: Collection[str] = (),
    stale: Collection[str] = (),
) -> "SequentialState":
    """What the results in the run folders decide, and the runs that are needed next.

    Args:
        failed: titles of runs that have failed and are not tried again.
        stale: titles of runs whose result does not count, because they are trained again.
    """
    import pandas as pd

    from gptx.statistics.sequential import follow_seeds

    able = [cell for cell in cells if not cell.rejection and cell.run]
    rows = []
    for cell in able:
        loss = float("nan") if cell.title in failed else None
        if loss is None and cell.title not in stale:
            loss = last_loss(outputs / str(cell.run))
        if loss is not None:
            rows.append((cell.arm, seed_of(cell), loss))
    results = pd.DataFrame(rows, columns=["arm", "seed", "value"])
    arms = list(dict.fromkeys(cell.arm for cell in able))
    return follow_seeds(results, arms, auto.baseline, range(auto.max_seeds), design_of(auto))


def not_needed(auto: AutoSeeds, state: "SequentialState", cells: Iterable[PlannedCell]) -> dict[str, str]:
    """{title of a run that will not be needed: reason}."""
    from gptx.statistics.sequential import ArmProgress

    stopped = {arm.arm: arm for arm in state.arms if arm.progress is not ArmProgress.CONTINUES}
    most = max((arm.seeds for arm in stopped.values()), default=0)
    reasons = {
        arm: (one.seeds, f"not needed: {one.verdict} with {one.seeds} seeds")
        if one.progress is ArmProgress.DECIDED
        else (one.seeds, "not needed: a run of this arm or of the baseline failed")
        for arm, one in stopped.items()
    }
    if len(stopped) == len(state.arms):
        reasons[auto.baseline] = (most, "not needed: no other arm continues")
    return {
        cell.title: reasons[cell.arm][1]
        for cell in cells
        if not cell.rejection and cell.arm in reasons and seed_of(cell) >= reasons[cell.arm][0]
    }
