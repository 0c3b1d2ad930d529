"""The seeds of a grid, and others for runs whose results choose something.

Nothing is chosen on the seeds on which it is reported: learning rates are tried with other seeds than those of the
comparison, and the winners of a halving or a search train again with other seeds.
"""

from collections.abc import Iterable, Sequence
from itertools import count, islice
from typing import TypeAlias

from gptx.config.overrides import key_of
from gptx.config.plain_dict import SEEDS

FIRST_OTHER = 1000  # far from the seeds that a grid usually has, so that more of these can be added later

SeedSet: TypeAlias = tuple[str, ...]  # the overrides of seed and data_seed of one run


def seed_sets(grid: Iterable[Sequence[str]], default: int) -> list[SeedSet]:
    """The different seeds of a grid. ``default``: the seed of a combination that gives none."""
    found = (tuple(one for one in overrides if key_of(one) in SEEDS) for overrides in grid)
    return list(dict.fromkeys(one if _gives_seed(one) else (f"seed={default}", *one) for one in found))


def other_seeds(sets: Sequence[SeedSet], number: int) -> list[SeedSet]:
    """So many seeds that the grid does not have. A data_seed that the grid gives stays if it has only one value."""
    used = {_value(one) for given in sets for one in given}
    fixed = {one for given in sets for one in given if key_of(one) == "data_seed"}
    kept = tuple(fixed) if len(fixed) == 1 else ()
    return [(f"seed={seed}", *kept) for seed in islice((n for n in count(FIRST_OTHER) if str(n) not in used), number)]


def replace_seeds(overrides: Iterable[str], seeds: SeedSet) -> list[str]:
    """The overrides with these seeds instead of their own."""
    return [*(one for one in overrides if key_of(one) not in SEEDS), *seeds]


def with_seed_sets(grid: Iterable[Sequence[str]], sets: Sequence[SeedSet]) -> list[list[str]]:
    """Every arm of the grid with each of these seeds."""
    arms = dict.fromkeys(tuple(replace_seeds(overrides, ())) for overrides in grid)
    return [[*arm, *seeds] for arm in arms for seeds in sets]


def seed_list(sets: Iterable[SeedSet]) -> str:
    """``seed 1000`` or ``seeds 0, 1, 2``; the values of seed alone."""
    values = list(dict.fromkeys(_value(one) for given in sets for one in given if key_of(one) == "seed"))
    return f"seed{'s' * (len(values) > 1)} {', '.join(values)}"


def _gives_seed(overrides: SeedSet) -> bool:
    return any(key_of(one) == "seed" for one in overrides)


def _value(override: str) -> str:
    return override.partition("=")[2]
