"""The arms of a comparison: runs that differ in the seed only, named by what distinguishes them from the other arms."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gptx.compare.formatting import plain, short
from gptx.compare.run_rows import RunRow
from gptx.compare.summary import differs, distinguishing_keys
from gptx.config.axes import axes
from gptx.config.expectations import parse_pairs
from gptx.errors import GptxError

_ABSENT = "none"  # how a key is written that an arm lacks
_MATCHED = ("ffn.ratio", "model.d_model")  # what `match` changes


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Runs that differ in the seed only.

    Attributes:
        values: the axes and keys that distinguish the arms of a comparison, with the values of this one as text.
        rows: its finished runs.
        diverged: its diverged runs with seeds at which no run finished, see `with_diverged`.
    """

    values: dict[str, str]
    rows: tuple[RunRow, ...]
    diverged: tuple[RunRow, ...] = ()

    @property
    def name(self) -> str:
        """Such as ``attention=gqa pos=rope``."""
        named = self.present or dict.fromkeys(self.values, _ABSENT)
        return " ".join(f"{key}={value}" for key, value in named.items()) or "the only arm"

    @property
    def present(self) -> dict[str, str]:
        """The values of the axes and keys that this arm has."""
        return {key: value for key, value in self.values.items() if value}

    def has(self, key: str, value: str) -> bool:
        """Whether the axis or config key has this value; numbers are equal in every spelling, hashes may be short, and
        ``none`` is the value of a key that the arm lacks."""
        found = _text(self.rows[0].value(key))
        if key.endswith("_hash"):
            return found.startswith(value)
        if not found:
            return value == _ABSENT
        return found == value or (_number(found) is not None and _number(found) == _number(value))

    def mean(self, key: str) -> float:
        """The mean of a metric; NaN if a run lacks it."""
        return sum(row.metrics[key] for row in self.rows) / len(self.rows)


def arms_of(rows: Sequence[RunRow]) -> list[Arm]:
    """The arms of finished runs, of which none is a repetition, in the order of their folders."""
    groups: dict[str, list[RunRow]] = {}
    for row in rows:
        groups.setdefault(row.key(), []).append(row)
    names = _names([group[0] for group in groups.values()])
    return [
        Arm(values={name: short(name, _text(group[0].value(name))) for name in names}, rows=tuple(group))
        for group in groups.values()
    ]


def with_diverged(arms: Sequence[Arm], rows: Iterable[RunRow]) -> list[Arm]:
    """The arms with their diverged runs, which are among ``rows``."""
    by_arm: dict[str, dict[int | str, RunRow]] = {}
    for row in rows:
        if row.diverged:
            by_arm.setdefault(row.key(), {})[row.seed_label] = row
    out = []
    for arm in arms:
        seeds = {row.seed_label for row in arm.rows}
        found = by_arm.get(arm.rows[0].key(), {})
        out.append(replace(arm, diverged=tuple(row for seed, row in found.items() if seed not in seeds)))
    return out


def always_diverged(arms: Sequence[Arm], rows: Iterable[RunRow]) -> list[str]:
    """One line for each arm without a finished run, of which a run diverged. ``rows``: all runs."""
    finished = [row for arm in arms for row in arm.rows]
    known = {arm.rows[0].key() for arm in arms}
    lost = [row for row in rows if row.diverged and row.key() not in known]
    named = [arm for arm in arms_of([*finished, *lost]) if arm.rows[0].key() not in known]
    return [f"worse than any arm below: {arm.name} (all of its runs diverged: {len(arm.rows)})" for arm in named]


def _names(rows: list[RunRow]) -> list[str]:
    """What distinguishes the arms; the sizes that `match` computed for an arm only if nothing else does."""
    differing = [name for name in distinguishing_keys(rows) if differs(rows, name)]
    names = [name for name in differing if not _is_computed(name, rows)]
    rest = [name for name in differing if name not in names]
    while rest and len({tuple(_text(row.value(name)) for name in names) for row in rows}) < len(rows):
        names.append(rest.pop(0))
    return names


def _is_computed(name: str, rows: Iterable[RunRow]) -> bool:
    matched = any(row.result.variant.get("match", "none") != "none" for row in rows)
    return matched and (name in _MATCHED or name.rpartition(".")[2] == "d_model")


def find_baseline(arms: Sequence[Arm], given: str, of_study: str) -> tuple[Arm, str]:
    """The arm that the others are compared with, and why it is that one.

    Args:
        given: such as ``attention=mha pos=learned``; "": the arm of the study, or else the one with the default options
            of the config, or else the first one.
        of_study: the baseline of the study; "": none.

    Raises:
        GptxError: no arm or several arms have the given values.
    """
    if given:
        return _single(arms, given), ""
    if of_study:
        try:
            return _single(arms, of_study), "the study's baseline"
        except GptxError:  # the command changed the study's grid
            pass
    defaults = {axis.name: axis.default for axis in axes()}
    usual = [arm for arm in arms if all(defaults.get(key) in (None, value) for key, value in arm.values.items())]
    usual = [arm for arm in usual if any(key in defaults for key in arm.values)]
    if len(usual) == 1:
        return usual[0], "the default options"
    return arms[0], "the first arm"


def _single(arms: Sequence[Arm], given: str) -> Arm:
    wanted = parse_pairs(given)
    found = [arm for arm in arms if all(arm.has(key, value) for key, value in wanted.items())]
    exact = [arm for arm in found if arm.present == wanted]
    if len(found) == 1 or len(exact) == 1:
        return (exact or found)[0]
    names = ", ".join(repr(arm.name) for arm in (found or arms)[:8]) + (", ..." if len(found or arms) > 8 else "")
    number = f"{len(found)} arms have" if found else "no arm has"
    raise GptxError(f"baseline {given!r}: {number} these values; expected one of {names}")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else plain(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
