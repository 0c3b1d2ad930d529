"""Choose the device and the compute dtype of a run."""

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptx.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """A machine other than this one, such as a node of a cluster, that a run is planned for.

    Attributes:
        device: "cuda" or "cpu".
        per_node: processes that fit on it; with "cuda" also the number of its GPUs.
        cores: CPU cores for each process.
    """

    device: str
    per_node: int
    cores: int


def pick(kind: str | torch.device, target: Machine | None = None) -> torch.device:
    """Return the device of type ``kind``; a `torch.device` is returned unchanged.

    Args:
        kind: "cuda", "mps", "cpu", or "auto" for the first of these that is available.
        target: the machine of the run; None: this machine.

    Raises:
        ConfigError: the machine has no such device.
    """
    if isinstance(kind, torch.device):
        return kind
    names = [name for name in ("cuda", "mps", "cpu") if is_available(name)]
    if target:
        names = list(dict.fromkeys([target.device, "cpu"]))
    if kind == "auto":
        kind = names[0]
    if kind not in names:
        owner = f"with hydra.launcher.device={target.device} a node has" if target else "this machine has"
        raise ConfigError(f"device={kind} is not available: {owner} {' and '.join(names)}")
    return torch.device(kind)


def is_available(kind: str) -> bool:
    """Return whether this machine has a device of type "cuda", "mps" or "cpu"."""
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}[kind]


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: "bf16", "fp32", or "auto" for bf16 where the hardware multiplies it natively
    (2 to 4 times as fast) and fp32 elsewhere.

    Raises:
        ConfigError: another precision.
    """
    if precision == "auto":
        precision = "bf16" if _has_native_bf16(device) else "fp32"
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if precision not in dtypes:
        raise ConfigError(f"precision.dtype={precision}: expected auto, bf16 or fp32")
    return dtypes[precision]


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":  # the GPU of another machine cannot be queried: assume that it has
        return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which matrix products of fp32 weights are computed in ``dtype``; for fp32 it does nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast: operations use the dtypes of their tensors and do not round to bf16."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def use_deterministic_sums() -> None:
    """Make compiled code add up the gradient of an embedding in a fixed order; this affects all code of the process.

    With several CPU threads the compiler otherwise uses atomic additions, and two runs differ in the last digits.
    """
    torch.use_deterministic_algorithms(True)
    # The default of this mode would also fill every new tensor with NaN.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
