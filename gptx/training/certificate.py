"""What two runs of one stretch have in common: the comparison behind the resume certificate."""

import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gptx.runs import checkpoint_files, journal
from gptx.runs.facts import Hardware, RunFacts
from gptx.runs.folder import RunFolder
from gptx.runs.provenance import versions
from gptx.runs.records import ResumeRecord, StartRecord
from gptx.training import checkpoint

TOLERANCE = 1e-5  # relative; for other hardware, another torch or number of processes
Values = dict[tuple[int, str], Any]  # by step and key


def conditions(folder: RunFolder, first: int, last: int) -> list[dict[str, Any]]:
    """What the run stood on in these steps, for each attempt that had a part in them."""
    starts = [r for r in journal.read(folder.path) if isinstance(r, StartRecord | ResumeRecord)]
    spans = [(step, r) for r in starts if (step := r.step if isinstance(r, ResumeRecord) else 0) < last]
    early = max(i for i, (step, _) in enumerate(spans) if step <= first)
    start = folder.start_record()
    strategy = start.variant["strategy"] if start else ""
    return [_conditions(r.hardware, r.versions, r.processes, strategy) for _, r in spans[early:]]


def _conditions(hardware: Hardware, versions: dict[str, str], processes: int, strategy: str) -> dict[str, Any]:
    return {
        "hardware": f"{hardware.device}, {hardware.name}",
        "torch": versions["torch"],
        "strategy": strategy,
        "processes": processes,
    }


def verdict(
    folder: RunFolder,
    again: RunFolder,
    start: StartRecord,
    stretch: tuple[int, int],
    before: list[dict[str, Any]],
    facts: RunFacts,
) -> dict[str, Any]:
    """As certificate.json has it."""
    here = _conditions(facts.hardware, versions(), facts.processes, start.variant["strategy"])
    compared = _journals(_values(folder, *stretch), _values(again, *stretch))
    last = checkpoint_files.step_name(stretch[1])
    pair = [checkpoint.whole(side.checkpoints / last) for side in (folder, again)]
    for what, prefix in (("weights", "model."), ("moments", "optim.")):
        compared[what] = _tensors(*({k: v for k, v in one.items() if k.startswith(prefix)} for one in pair))
    other = [key for key in here if any(one[key] != here[key] for one in before)]
    first = _first(compared, stretch[1])
    close = all(one["largest"] <= TOLERANCE for one in compared.values())
    return {
        "verdict": _sentence(compared, other, first, close),
        "passed": first is None or (bool(other) and close),
        "from": stretch[0],
        "to": stretch[1],
        "first_difference": first,
        "compared": compared,
        "run": before,
        "again": here,
        "corpus_hash": {"run": start.data.corpus_hash, "again": facts.data.corpus_hash},
        "uid": start.uid,
        "identity": start.identity,
        "name": start.name,
        "t": time.time_ns() // 1_000_000,
    }


def _values(folder: RunFolder, first: int, last: int) -> Values:
    """What the journal says of these steps."""
    return {place: value for place, value in journal.computed(folder.path).items() if first < place[0] <= last}


def _journals(run: Values, again: Values) -> dict[str, dict[str, Any]]:
    kinds: dict[str, tuple[str, ...]] = {"batches": ("batch",), "gradient norms": ("train/grad_norm",)}
    if not any(key == "batch" for _, key in run):  # an older version wrote a different checksum
        again = {place: value for place, value in again.items() if place[1] != "batch"}
    named = {key for keys in kinds.values() for key in keys}
    kinds["losses"] = tuple({key for _, key in (*run, *again)} - named)
    return {what: _records(run, again, keys) for what, keys in kinds.items()}


def _records(run: Values, again: Values, keys: Iterable[str]) -> dict[str, Any]:
    places = sorted(place for place in {*run, *again} if place[1] in keys)
    differ = [place for place in places if run.get(place) != again.get(place)]
    largest = max((_apart(run.get(place), again.get(place)) for place in differ), default=0.0)
    first = {"step": differ[0][0], "what": differ[0][1]} if differ else None
    if differ:
        first |= {"run": run.get(differ[0]), "again": again.get(differ[0])}  # type: ignore[operator]
    return _compared(len(places), len(differ), largest, first)


def _apart(a: Any, b: Any) -> float:
    if not isinstance(a, float | int) or not isinstance(b, float | int):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b))


def _tensors(run: dict[str, Tensor], again: dict[str, Tensor]) -> dict[str, Any]:
    names = sorted({*run, *again})
    differ = [n for n in names if n not in run or n not in again or not torch.equal(run[n], again[n])]
    far = {n: _distance(run[n], again[n]) if n in run and n in again else math.inf for n in differ}
    worst = max(far, key=lambda n: far[n], default="")
    return _compared(len(names), len(differ), far.get(worst, 0.0), {"what": worst} if differ else None)


def _distance(a: Tensor, b: Tensor) -> float:
    """Of two tensors, relative to the longer one."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.double(), b.double()
    return float((a - b).norm() / max(a.norm(), b.norm()))


def _compared(count: int, differ: int, largest: float, first: dict[str, Any] | None) -> dict[str, Any]:
    much = f" (by up to {largest:.1e} relative)" if 0 < largest < math.inf else ""
    text = f"{differ} of {count} differ{much}" if differ else f"all {count} the same" if count else "none to compare"
    return {"count": count, "differ": differ, "largest": largest, "first": first, "text": text}


def _first(compared: dict[str, dict[str, Any]], last: int) -> dict[str, Any] | None:
    """The first difference: by step, and in a step what causes the others first."""
    found = [{"step": last, **one["first"]} for one in compared.values() if one["first"]]
    return min(found, key=lambda one: one["step"], default=None)


def _sentence(compared: dict[str, dict[str, Any]], other: list[str], first: dict[str, Any] | None, close: bool) -> str:
    if first is None:
        return "bit for bit the same"
    far = f"{compared['losses']['largest']:.1e} relative (losses), {compared['weights']['largest']:.1e} (weights)"
    unlike = f"with other {' and '.join(other)} than the run's" if other else ""
    if other and close:
        return f"within {far}, {unlike}"
    values = f": {first['run']} in the run, {first['again']} now" if "run" in first else ""
    return f"differs from step {first['step']} on ({first['what']}{values}){f', {unlike}' if other else ''}; by {far}"
