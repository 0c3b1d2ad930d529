"""The effects of factors, where the arms form a grid of two or more."""

import math
from collections.abc import Collection, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING

import pandas as pd

from gptx.compare.arms import Arm
from gptx.compare.findings import GridEffects
from gptx.statistics.factorial import factorial

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison

_ABSENT = "none"
MOST_CELLS = 1000  # of the complete grid, over which the effects average


def grid_effects(comparison: "Comparison") -> GridEffects | None:
    """Main effects and interactions of the compared metric; None if the arms form no grid of two or more factors, no
    interaction of two factors can be estimated, or the complete grid would have more than `MOST_CELLS` cells."""
    baseline, arms = comparison.baseline, comparison.compared
    names = factors_of(arms)
    if baseline is None or len(names) < 2:
        return None
    levels = {arm.name: _levels(arm, names) for arm in arms}
    if math.prod(map(len, map(set, zip(*levels.values(), strict=True)))) > MOST_CELLS or not crosses(levels.values()):
        return None
    references = levels[baseline.name]
    values = comparison.values
    cells = pd.DataFrame([levels[arm] for arm in values["arm"]], columns=list(names))
    effects = factorial(
        pd.concat([cells, values[["seed", "value"]]], axis=1),
        names,
        comparison.margin or None,
        metric=comparison.metric.title,
        references=dict(zip(names, references, strict=True)),
        higher_is_better=comparison.metric.higher_is_better,
    )
    present = set(levels.values())
    every = product(*(dict.fromkeys(level[i] for level in levels.values()) for i in range(len(names))))
    missing = tuple(cell for cell in every if cell not in present)
    return GridEffects(factors=names, references=references, missing=missing, effects=effects)


def factors_of(arms: Sequence[Arm]) -> tuple[str, ...]:
    """What the arms vary independently: axes and config keys. Keys of an option of such an axis belong to its level,
    and a key that follows from the others, such as a learning rate tuned for each arm, is no factor."""
    names = [name for name in (arms[0].values if arms else {}) if len({arm.values[name] for arm in arms}) > 1]
    names = [name for name in names if "." not in name or name.partition(".")[0] not in names]
    for name in [name for name in names if "." in name]:
        rest = tuple(other for other in names if other != name)
        if len({_levels(arm, rest) for arm in arms}) == len(arms):
            names.remove(name)
    complete = len({_levels(arm, tuple(names)) for arm in arms}) == len(arms)
    return tuple(names) if complete else ()


def crosses(cells: Collection[tuple[str, ...]]) -> bool:
    """Whether two levels of one factor occur with the same two levels of another, the other factors being equal."""
    if not cells:
        return False
    for i, j in combinations(range(len(next(iter(cells)))), 2):
        found: dict[tuple[str, ...], dict[str, set[str]]] = {}
        for cell in cells:
            rest = tuple(level for k, level in enumerate(cell) if k not in (i, j))
            found.setdefault(rest, {}).setdefault(cell[i], set()).add(cell[j])
        if any(len(a & b) > 1 for rows in found.values() for a, b in combinations(rows.values(), 2)):
            return True
    return False


def _levels(arm: Arm, names: Sequence[str]) -> tuple[str, ...]:
    """The level of each factor, such as ``sliding window.size=32``."""
    return tuple(
        " ".join([arm.values[name] or _ABSENT, *(f"{key}={value}" for key, value in _keys_of(arm, name))])
        for name in names
    )


def _keys_of(arm: Arm, axis: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in arm.values.items() if key.startswith(f"{axis}.") and value]
