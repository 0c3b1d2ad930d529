"""The loss of each unit of the validation text at the end of a run, in its own file of the run folder.

Differences between runs are paired by these units, to estimate how much of them is due to the choice of the text.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptx.regular_files import open_regular
from gptx.runs.atomic_files import write_bytes

NAME = "validation.safetensors"
LARGEST = 2**23  # bytes of the file; `gptx.data.validation_units` makes at most about 66,000 units


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitLosses:
    """The last validation of a run, unit by unit in the order of the text. A unit is a document, or a part of a long
    one. All arrays are (U,). Units of two runs are the same text if ``document`` and ``offset`` are equal.

    Attributes:
        step: the step after which the run was validated.
        document: the number of the document in the validation split (int64).
        offset: the evaluated bytes of this document before the unit (int64).
        select, report: whether the unit belongs to the selection half, and to the report half, whose figures are
            compared. Both, if the text is too short for halves.
        nats: the sum of the losses of the unit's tokens (float64).
        tokens, size: the number of these tokens, and of their bytes (int64).
    """

    step: int
    document: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    select: npt.NDArray[np.bool_]
    report: npt.NDArray[np.bool_]
    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]


_DTYPES = {
    **dict.fromkeys(("document", "offset", "tokens", "size"), "int64"),
    **dict.fromkeys(("select", "report"), "bool"),
    "nats": "float64",
}


def write_unit_losses(folder: Path, losses: UnitLosses) -> None:
    """Write the file of a run folder completely or not at all.

    Raises:
        RunFailed: the disk is full or cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(getattr(losses, name), dtype) for name, dtype in _DTYPES.items()}
    write_bytes(folder / NAME, save({**arrays, "step": np.array([losses.step])}))


def read_unit_losses(folder: Path) -> UnitLosses:
    """Read the file of a run folder, which may come from somebody else.

    Raises:
        FileNotFoundError: the run has not ended, or was started by a version of gptx that did not write the file.
        ConfigError: the file is a symbolic link, a named pipe or a device.
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / NAME
    with open_regular(path, "rb") as file:
        data = file.read(LARGEST + 1)
    try:
        if len(data) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        arrays = load(data)
        if problem := _problem(arrays):
            raise ValueError(problem)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return UnitLosses(step=int(arrays["step"][0]), **{name: arrays[name] for name in _DTYPES})


def _problem(arrays: dict[str, np.ndarray]) -> str:
    """Why these are not the losses of units; "" if they are."""
    for name, dtype in {**_DTYPES, "step": "int64"}.items():
        if name not in arrays:
            return f"it has no {name}"
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            return f"{name} is not a list of {dtype}"
    if len(arrays["step"]) != 1 or len({len(arrays[name]) for name in _DTYPES}) != 1:
        return "its lists have different lengths"
    if not np.isfinite(arrays["nats"]).all() or (arrays["tokens"] < 1).any() or (arrays["size"] < 0).any():
        return "it has impossible values"
    return ""
