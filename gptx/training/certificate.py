"""The resume certificate: a comparison of a run with a repetition of some of its steps."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from gptx.runs import checkpoint_files, journal, json_log
from gptx.runs.folder import RunFolder
from gptx.runs.preflight_facts import Hardware, RunFacts
from gptx.runs.provenance import versions
from gptx.runs.records import ResumeRecord, StartRecord
from gptx.training import checkpoint

TOLERANCE = 1e-5  # relative; allowed if hardware, torch or the number of processes differ
Value = float | str
Values = dict[tuple[int, str], Value]  # by step and key


class Outcome(StrEnum):
    """The result of the comparison in a certificate."""

    EQUAL = "equal"  # bitwise
    WITHIN_TOLERANCE = "within tolerance"  # under other hardware, torch version or number of processes
    DIFFERENT = "different"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The hardware and software with which a run was trained. ``hardware``: device and name of the processor."""

    hardware: str
    torch: str
    strategy: str
    processes: int


@dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """Where two trainings differ first: the step, the name of the value or tensor, and the two values, if any."""

    step: int
    what: str
    run: Value | None = None
    again: Value | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of one kind of values, such as losses. ``largest``: the largest relative difference."""

    count: int
    differ: int = 0
    largest: float = 0.0
    first: FirstDifference | None = None

    def __str__(self) -> str:
        if not self.differ:
            return f"all {self.count} are equal" if self.count else "none to compare"
        size = f" (by up to {self.largest:.1e} relative)" if 0 < self.largest < math.inf else ""
        return f"{self.differ} of {self.count} differ{size}"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """certificate.json.

    Attributes:
        passed: the repetition is bitwise equal, or within `TOLERANCE` under other conditions.
        first_step: the steps after this one were repeated, up to ``last_step``.
        run: the conditions of the run, one for each start and resume in these steps; ``again``: of the repetition.
        t: time in milliseconds since 1970.
    """

    outcome: Outcome
    conclusion: str
    passed: bool
    first_step: int = field(metadata={"key": "from"})
    last_step: int = field(metadata={"key": "to"})
    first_difference: FirstDifference | None
    compared: dict[str, Comparison]
    run: tuple[Conditions, ...]
    again: Conditions
    corpus_hash: dict[str, str]
    uid: str
    identity: str
    name: str
    t: int
    seconds: float


def conditions_of(folder: RunFolder, first: int, last: int) -> tuple[Conditions, ...]:
    """The conditions of a run between two steps, one for each start and resume that trained some of these steps."""
    start = folder.start_record()
    assert start is not None
    records: list[tuple[int, StartRecord | ResumeRecord]] = [(0, start)]
    resumes = (record for record in journal.read(folder.path) if isinstance(record, ResumeRecord))
    records += [(record.step, record) for record in resumes if record.step < last]
    earliest = max(i for i, (step, _) in enumerate(records) if step <= first)
    strategy = start.variant["strategy"]
    return tuple(_conditions(r.hardware, r.versions, r.processes, strategy) for _, r in records[earliest:])


def _conditions(hardware: Hardware, versions: dict[str, str], processes: int, strategy: str) -> Conditions:
    name = f"{hardware.device}, {hardware.name}"
    return Conditions(hardware=name, torch=versions["torch"], strategy=strategy, processes=processes)


def certificate(
    folder: RunFolder,
    repetition: RunFolder,
    steps: tuple[int, int],
    before: tuple[Conditions, ...],
    facts: RunFacts,
    seconds: float,
) -> Certificate:
    """Compare a run with the repetition of its steps.

    Args:
        steps: the first and the last step: the repetition started from the checkpoint of the first one.
        before: the conditions of the run in these steps, from `conditions_of`.
        facts: the facts of the repetition, from its preflight.
        seconds: duration of the repetition.
    """
    start = folder.start_record()
    assert start is not None
    again = _conditions(facts.hardware, versions(), facts.processes, start.variant["strategy"])
    other = [key for key, value in vars(again).items() if any(vars(one)[key] != value for one in before)]
    compared = _compare(folder, repetition, *steps)
    outcome, first = _outcome(compared, other), _first(compared)
    return Certificate(
        outcome=outcome,
        conclusion=_sentence(outcome, compared, other, first),
        passed=outcome != Outcome.DIFFERENT,
        first_step=steps[0],
        last_step=steps[1],
        first_difference=first,
        compared=compared,
        run=before,
        again=again,
        corpus_hash={"run": start.data.corpus_hash, "again": facts.data.corpus_hash},
        uid=start.uid,
        identity=start.identity,
        name=start.name,
        t=json_log.now(),
        seconds=seconds,
    )


def _compare(folder: RunFolder, repetition: RunFolder, first: int, last: int) -> dict[str, Comparison]:
    compared = _compare_journals(*(_values(side, first, last) for side in (folder, repetition)))
    name = checkpoint_files.step_name(last)
    run, again = (checkpoint.load_tensors(side.checkpoints / name) for side in (folder, repetition))
    for kind, prefix in (("weights", "model."), ("moments", "optim.")):
        compared[kind] = _compare_tensors(_with_prefix(run, prefix), _with_prefix(again, prefix), last)
    return compared


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _values(folder: RunFolder, first: int, last: int) -> Values:
    """The values that training computed after the first step, up to the last."""
    return {place: value for place, value in journal.computed(folder.path).items() if first < place[0] <= last}


def _compare_journals(run: Values, again: Values) -> dict[str, Comparison]:
    if not any(key == "batch" for _, key in run):  # an older version wrote another checksum
        again = {place: value for place, value in again.items() if place[1] != "batch"}
    others = {key for _, key in (*run, *again)} - {"batch", "train/grad_norm"}
    kinds = {"batches": {"batch"}, "gradient norms": {"train/grad_norm"}, "losses": others}
    return {kind: _compare_values(run, again, keys) for kind, keys in kinds.items()}


def _compare_values(run: Values, again: Values, keys: Iterable[str]) -> Comparison:
    places = sorted(place for place in {*run, *again} if place[1] in keys)
    differ = [place for place in places if run.get(place) != again.get(place)]
    if not differ:
        return Comparison(count=len(places))
    (step, key), values = differ[0], (run.get(differ[0]), again.get(differ[0]))
    largest = max(_relative_difference(run.get(place), again.get(place)) for place in differ)
    first = FirstDifference(step=step, what=key, run=values[0], again=values[1])
    return Comparison(count=len(places), differ=len(differ), largest=largest, first=first)


def _relative_difference(a: Value | None, b: Value | None) -> float:
    if not isinstance(a, float | int) or not isinstance(b, float | int):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b))


def _compare_tensors(run: dict[str, Tensor], again: dict[str, Tensor], step: int) -> Comparison:
    names = sorted({*run, *again})
    differ = [n for n in names if n not in run or n not in again or not torch.equal(run[n], again[n])]
    if not differ:
        return Comparison(count=len(names))
    distances = {n: _distance(run[n], again[n]) if n in run and n in again else math.inf for n in differ}
    worst = max(distances, key=lambda n: distances[n])
    first = FirstDifference(step=step, what=worst)
    return Comparison(count=len(names), differ=len(differ), largest=distances[worst], first=first)


def _distance(a: Tensor, b: Tensor) -> float:
    """The norm of the difference of two tensors, divided by the larger of their norms."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.double(), b.double()
    return float((a - b).norm() / max(a.norm(), b.norm()))


def _first(compared: dict[str, Comparison]) -> FirstDifference | None:
    """The first difference by step; within a step in the order of ``compared``, in which causes come before effects."""
    found = [one.first for one in compared.values() if one.first]
    return min(found, key=lambda one: one.step, default=None)


def _outcome(compared: dict[str, Comparison], other: list[str]) -> Outcome:
    """Whether the two runs are equal. ``other``: names of the conditions that differ."""
    if not _first(compared):
        return Outcome.EQUAL
    close = all(one.largest <= TOLERANCE for one in compared.values())
    return Outcome.WITHIN_TOLERANCE if other and close else Outcome.DIFFERENT


def _sentence(
    outcome: Outcome, compared: dict[str, Comparison], other: list[str], first: FirstDifference | None
) -> str:
    if first is None:
        return "bitwise equal"
    size = f"a relative {compared['losses'].largest:.1e} (losses), {compared['weights'].largest:.1e} (weights)"
    conditions = f"with different {' and '.join(other)}" if other else ""
    if outcome == Outcome.WITHIN_TOLERANCE:
        return f"within {size}, {conditions}"
    values = f": {first.run} in the run, {first.again} in the repetition" if first.run != first.again else ""
    where = f"differs from step {first.step} on ({first.what}{values})"
    return f"{', '.join(filter(None, [where, conditions]))}; by {size}"
