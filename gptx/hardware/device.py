"""The hardware a run stands on: which device, which precision, how many threads."""

import contextlib
import ctypes
import os
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptx.errors import ConfigError
from gptx.runs.facts import Hardware


@dataclass(frozen=True)
class Machine:
    """Another machine than this one, such as a cluster's node: what is asked of this one is then said here.

    Attributes:
        device: "cuda" or "cpu".
        per_node: processes that fit on it; as many GPUs as that, where it has any.
        cores: of them, for each process.
    """

    device: str
    per_node: int
    cores: int


def pick(kind: str | torch.device, there: Machine | None = None) -> torch.device:
    """``auto`` is cuda, else mps, else cpu; on this machine, or on the one over ``there``. What is picked stays so.

    Raises:
        ConfigError: the device asked for is not there.
    """
    if isinstance(kind, torch.device):
        return kind
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if there:
        found = {there.device: True, "cpu": True}
    if kind == "auto":
        kind = next(name for name in found if found[name])
    if not found.get(kind):
        who = f"hydra.launcher.device={there.device} has" if there else "this machine has"
        raise ConfigError(f"device={kind} is not there: {who} {', '.join(name for name in found if found[name])}")
    return torch.device(kind)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 where the hardware multiplies it natively (there it is 2 to 4 times as fast), else fp32."""
    if precision == "auto":
        precision = "bf16" if _native_bf16(device) else "fp32"
    known = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if precision not in known:
        raise ConfigError(f"precision.dtype={precision}: expected auto, bf16 or fp32")
    return known[precision]


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":  # of another machine's, which cannot be asked, it is taken for granted
        return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """fp32 weights, matrix products in ``dtype``; nothing at all in fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off: what must not be rounded to bf16 is computed in the types of its tensors."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(given: int, processes: int) -> int:
    """CPU threads of one of ``processes`` on this machine: as given, or its share of the cores where that is 0."""
    return given or max(1, cores() // processes)


def keep_freed_memory() -> None:
    """Let glibc hand large freed blocks out again instead of to the system, which would give each new activation page
    by page: a fifth of a step's time in a GPT-2-sized model on the CPU, for a tenth more memory. Elsewhere: nothing."""
    _mallopt(mmap_max=0, trim_threshold=-1)


def return_freed_memory() -> None:
    """Let glibc return large freed blocks to the system. What gathers and frees weights all the time would else leave
    holes that nothing fits into, and hold more than if it had never freed them. Elsewhere: nothing."""
    _mallopt(mmap_threshold=2**20, trim_threshold=2**20)


def _mallopt(**options: int) -> None:
    if platform.libc_ver()[0] == "glibc":
        numbers = {"trim_threshold": -1, "mmap_threshold": -3, "mmap_max": -4}
        for name, value in options.items():
            ctypes.CDLL(None).mallopt(numbers[name], value)


def hardware(device: torch.device, there: Machine | None = None) -> Hardware:
    """The machine that a run is on, or will be on (``there``: what is not known of it is empty or 0)."""
    if there:
        return Hardware(device=device.type, cores=there.cores)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware(device=device.type, name=name, cpu=_cpu_name(), cores=cores(), memory_bytes=memory)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's own peak on CUDA, elsewhere the largest resident size of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage's, this peak does not include the parent's from before exec
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
