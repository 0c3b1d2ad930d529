"""The resume certificate: a comparison of a run with a repetition of some of its steps."""

from dataclasses import dataclass, field
from enum import StrEnum

from gptx.runs import checkpoint_files, journal, json_log
from gptx.runs.folder import RunFolder
from gptx.runs.preflight_facts import DataFacts, Hardware, RunFacts
from gptx.runs.provenance import versions
from gptx.runs.records import ResumeRecord, StartRecord
from gptx.training import checkpoint
from gptx.training.comparison import (
    FirstDifference,
    ValueComparison,
    Values,
    compare_best,
    compare_tensors,
    compare_values,
    with_prefix,
)

TOLERANCE = 1e-5  # relative; allowed if hardware, torch or the number of processes differ


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
    compared: dict[str, ValueComparison]
    run: tuple[Conditions, ...]
    again: Conditions
    corpus_hash: dict[str, str]
    uid: str
    identity: str
    name: str
    t: int
    seconds: float


def conditions_of(folder: RunFolder, first: int, last: int) -> tuple[Conditions, ...]:
    """The conditions of a run between two steps, one for each start and resume that trained some of these steps.

    Raises:
        ValueError: the journal does not hold them.
    """
    start = folder.start_record()
    assert start is not None
    records: list[tuple[int, StartRecord | ResumeRecord]] = [(0, start)]
    resumes = (record for record in journal.read(folder.path) if isinstance(record, ResumeRecord))
    records += [(record.step, record) for record in resumes if record.step < last]
    earliest = max(i for i, (step, _) in enumerate(records) if step <= first)
    strategy = _strategy(start)
    return tuple(_conditions(r.hardware, r.versions, r.processes, strategy) for _, r in records[earliest:])


def _strategy(start: StartRecord) -> str:
    if "strategy" not in start.variant:
        raise ValueError("the start record has no strategy")
    return start.variant["strategy"]


def _conditions(hardware: Hardware, versions: dict[str, str], processes: int, strategy: str) -> Conditions:
    name = f"{hardware.device}, {hardware.name}"
    if "torch" not in versions:
        raise ValueError("a start or a resume has no version of torch")
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
    again = _conditions(facts.hardware, versions(), facts.processes, _strategy(start))
    other = [key for key, value in vars(again).items() if any(vars(one)[key] != value for one in before)]
    compared = _compare(folder, repetition, *steps)
    if start.data.corpus_hash == facts.data.corpus_hash and start.data.content_hash:
        run, same = (_token_ids(steps[0], side.data) for side in (start, facts))
        compared = {"token ids": compare_values(run, same, ["token ids"]), **compared}
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


def _compare(folder: RunFolder, repetition: RunFolder, first: int, last: int) -> dict[str, ValueComparison]:
    compared = _compare_journals(*(_values(side, first, last) for side in (folder, repetition)))
    name = checkpoint_files.step_name(last)
    run, again = (checkpoint.load_tensors(side.checkpoints / name) for side in (folder, repetition))
    for kind, prefix in (("weights", "model."), ("moments", "optim.")):
        compared[kind] = compare_tensors(with_prefix(run, prefix), with_prefix(again, prefix), last)
    return compared | compare_best(folder, repetition, last)


def _token_ids(step: int, data: DataFacts) -> Values:
    return {(step, "token ids"): data.content_hash}


def _values(folder: RunFolder, first: int, last: int) -> Values:
    """The values that training computed after the first step, up to the last."""
    return {place: value for place, value in journal.computed(folder.path).items() if first < place[0] <= last}


def _compare_journals(run: Values, again: Values) -> dict[str, ValueComparison]:
    if not any(key == "batch" for _, key in run):  # an older version wrote another checksum
        again = {place: value for place, value in again.items() if place[1] != "batch"}
    others = {key for _, key in (*run, *again)} - {"batch", "train/grad_norm"}
    kinds = {"batches": {"batch"}, "gradient norms": {"train/grad_norm"}, "losses": others}
    return {kind: compare_values(run, again, keys) for kind, keys in kinds.items()}


def _first(compared: dict[str, ValueComparison]) -> FirstDifference | None:
    """The first difference by step; within a step in the order of ``compared``, in which causes come before effects."""
    found = [one.first for one in compared.values() if one.first]
    return min(found, key=lambda one: one.step, default=None)


def _outcome(compared: dict[str, ValueComparison], other: list[str]) -> Outcome:
    """Whether the two runs are equal. ``other``: names of the conditions that differ."""
    if not _first(compared):
        return Outcome.EQUAL
    close = all(one.largest <= TOLERANCE for one in compared.values())
    return Outcome.WITHIN_TOLERANCE if other and close else Outcome.DIFFERENT


def _sentence(
    outcome: Outcome, compared: dict[str, ValueComparison], other: list[str], first: FirstDifference | None
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
