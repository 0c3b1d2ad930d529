"""What was decided at the rungs of a halving, as the sweep's journal has it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from gptx.runs.json_log import Line


@dataclass(frozen=True)
class Rung:
    """What was decided at a step.

    Attributes:
        losses: of all arms that came so far, the best first; None: it has none.
        kept: the arms that go on.
        failed: those of which a run has failed: with what it lacks, another decision may be due.
    """

    step: int
    losses: dict[str, float | None]
    kept: tuple[str, ...]
    failed: tuple[str, ...] = ()


def decided(records: Iterable[Line], factor: int) -> list[Rung]:
    """The decisions that stand, by rising steps, of a sweep's records "begin" and "rung".

    A later decision voids an earlier one about the same step, and what followed from that. A command that begins voids
    those in which a run has failed, for it tries that again; one with force=true voids all.
    """
    found: list[Rung] = []
    for record in records:
        if record["kind"] == "begin":
            found = [] if record.get("force") else list(takewhile(lambda rung: not rung.failed, found))
        elif record["factor"] == factor:
            before = [rung for rung in found if rung.step < record["step"]]
            failed = tuple(record.get("failed", ()))
            found = [*before, Rung(record["step"], record["losses"], tuple(record["kept"]), failed)]
    return found


def left_out(rungs: Iterable[Rung], arms: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """By title, the runs that go no further, and at which place their arm was. ``arms``: the titles of each."""
    found: dict[str, str] = {}
    for rung in rungs:
        for place, (arm, loss) in enumerate(rung.losses.items(), 1):
            if arm not in rung.kept:
                failed = "a run of its arm has failed"
                why = failed if loss is None else f"{_ordinal(place)} of {len(rung.losses)}"
                found |= dict.fromkeys(arms.get(arm, ()), f"left out at step {rung.step}: {why}")
    return found


def _ordinal(place: int) -> str:
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"
