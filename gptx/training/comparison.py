"""Compare the values, tensors and best weights of two trainings, for the resume certificate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gptx.errors import CheckpointError
from gptx.runs import checkpoint_files
from gptx.runs.damaged_files import UNEXPECTED, described
from gptx.runs.folder import RunFolder
from gptx.training import checkpoint
from gptx.training.best_weights import load_best

BEST_WEIGHTS = "checkpoints/best/model.safetensors"
Value = float | str
Values = dict[tuple[int, str], Value]  # by step and key


@dataclass(frozen=True, kw_only=True)
class FirstDifference:
    """Where two trainings differ first: the step, the name of the value or tensor, and the two values, if any."""

    step: int
    what: str
    run: Value | None = None
    again: Value | None = None


@dataclass(frozen=True, kw_only=True)
class ValueComparison:
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


def compare_values(run: Values, again: Values, keys: Iterable[str]) -> ValueComparison:
    """Compare the values with these keys. A value that only one of the two has differs."""
    places = sorted(place for place in {*run, *again} if place[1] in keys)
    differ = [place for place in places if run.get(place) != again.get(place)]
    if not differ:
        return ValueComparison(count=len(places))
    (step, key), values = differ[0], (run.get(differ[0]), again.get(differ[0]))
    largest = max(_relative_difference(run.get(place), again.get(place)) for place in differ)
    first = FirstDifference(step=step, what=key, run=values[0], again=values[1])
    return ValueComparison(count=len(places), differ=len(differ), largest=largest, first=first)


def _relative_difference(a: Value | None, b: Value | None) -> float:
    if not isinstance(a, float | int) or not isinstance(b, float | int):
        return math.inf
    difference = abs(a - b) / max(abs(a), abs(b))
    return math.inf if math.isnan(difference) else difference


def compare_tensors(run: dict[str, Tensor], again: dict[str, Tensor], step: int) -> ValueComparison:
    """Compare the tensors of a step by name. A tensor that only one of the two has, or of another shape, differs.

    The size of a difference is its norm, divided by the larger of the norms of the two tensors.
    """
    names = sorted({*run, *again})
    differ = [n for n in names if n not in run or n not in again or not torch.equal(run[n], again[n])]
    if not differ:
        return ValueComparison(count=len(names))
    distances = {n: _distance(run[n], again[n]) if n in run and n in again else math.inf for n in differ}
    worst = max(distances, key=lambda n: distances[n])
    first = FirstDifference(step=step, what=worst)
    return ValueComparison(count=len(names), differ=len(differ), largest=distances[worst], first=first)


def _distance(a: Tensor, b: Tensor) -> float:
    """The norm of the difference of two tensors, divided by the larger of their norms."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.double(), b.double()
    distance = float((a - b).norm() / max(a.norm(), b.norm()))
    return math.inf if math.isnan(distance) else distance


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix."""
    return {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def compare_best(folder: RunFolder, repetition: RunFolder, last: int) -> dict[str, ValueComparison]:
    """Compare the best validation up to the step ``last``, in the meta.json of the checkpoints, and checkpoints/best.

    The weights in checkpoints/best are compared only if they are of a step up to ``last``, and if the repetition wrote
    them, too, or the run has a checkpoint of their step.
    """
    name = checkpoint_files.step_name(last)
    metas = [checkpoint_files.meta(side.checkpoints / name) for side in (folder, repetition)]
    run, again = (_at(last, "best", side.best) for side in metas)
    compared = {"best validation": compare_values(run, again, {key for _, key in (*run, *again)})}
    try:
        compared["best weights"] = _compare_best_weights(folder, repetition, last, metas[1].best)
    except CheckpointError as error:
        first = FirstDifference(step=last, what=str(error))
        compared["best weights"] = ValueComparison(count=1, differ=1, largest=math.inf, first=first)
    return compared


def _compare_best_weights(
    folder: RunFolder, repetition: RunFolder, last: int, best: dict[str, float]
) -> ValueComparison:
    """Args:
        best: the best validation of the repetition.

    Raises:
        CheckpointError: the best weights of the run are missing or damaged.
    """
    step = int(best["step"])
    if step == 0:  # before the first validation
        return ValueComparison(count=0)
    weights, header = load_best(folder.checkpoints)
    try:
        written = int(header["step"])
        stored = {key: float(header.get(key, "nan")) for key in best if key != "stale"}
    except UNEXPECTED as error:
        raise CheckpointError(f"the header of {BEST_WEIGHTS} is damaged ({described(error)})") from error
    if written > last:
        return ValueComparison(count=0)
    run, again = _at(last, "checkpoints/best", stored), _at(last, "checkpoints/best", best)
    values = compare_values(run, again, {key for _, key in run})
    saved = folder.checkpoints / checkpoint_files.step_name(step)
    if values.differ:
        return values
    if (repetition.checkpoints / "best").exists():
        other = load_best(repetition.checkpoints)[0]
    elif saved.exists():
        other = {k.removeprefix("model."): v for k, v in with_prefix(checkpoint.load_tensors(saved), "model.").items()}
    else:
        return ValueComparison(count=0)
    return compare_tensors(weights, other, step)


def _at(step: int, prefix: str, values: dict[str, float]) -> Values:
    return {(step, f"{prefix} {key}"): value for key, value in values.items()}
