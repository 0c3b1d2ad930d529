"""Describe the hardware of a run, and measure the memory that a process has used."""

import os
import platform
from pathlib import Path

import torch

from gptx.hardware.cpu import cores
from gptx.hardware.device import Machine
from gptx.runs.preflight_facts import Hardware


def describe_hardware(device: torch.device, target: Machine | None = None) -> Hardware:
    """Return the hardware that a run records.

    Args:
        target: the machine of the run, of which name and memory are not known; None: this machine.
    """
    if target:
        return Hardware(device=device.type, cores=target.cores)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware(device=device.type, name=name, cpu=_cpu_name(), cores=cores(), memory_bytes=memory)


def _cpu_name() -> str:
    """Such as ``AMD EPYC (family 25, model 1)``: generations with one name round differently and differ in speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    name = found.get("model name") or platform.processor() or platform.machine()
    generation = [
        f"{what} {found[key]}" for what, key in (("family", "cpu family"), ("model", "model")) if key in found
    ]
    return f"{name} ({', '.join(generation)})" if generation else name


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: on CUDA, of torch's allocations; elsewhere, of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the peak of the parent before exec
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
