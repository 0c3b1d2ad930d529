"""The memory that is available on this machine, within the limits of its cgroups."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Cgroups:
    """Where the kernel shows memory limits: the root folder and, in each group's folder, the files with limit and use
    in bytes."""

    root: str
    limit: str
    used: str


V2 = Cgroups("/sys/fs/cgroup", "memory.max", "memory.current")
V1 = Cgroups("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")


def machine_memory(device: str) -> int:
    """Return the bytes available to a run: for "cuda", all memory of the smallest GPU; else what is free, both on the
    machine and under the limits of this process's cgroups."""
    if device == "cuda":
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        return int(min(sizes))
    info = Path("/proc/meminfo")
    if not info.exists():
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    kilobytes = dict(line.split(":") for line in info.read_text().splitlines())
    return min([int(kilobytes["MemAvailable"].split()[0]) * 1024, *_free_in_cgroups()])


def _free_in_cgroups() -> Iterator[int]:
    """Yield the bytes left under the limit of each cgroup (version 2 or 1) that this process belongs to. The page cache
    of inactive files is counted as free."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version = V2 if controllers == "" else V1
        folder = Path(version.root + group)
        for path in (folder, *folder.parents):
            limit = _read_number(path / version.limit)
            if limit is not None:
                stat = dict(line.split() for line in (path / "memory.stat").read_text().splitlines())
                yield max(0, limit - (_read_number(path / version.used) or 0) + int(stat["inactive_file"]))


def _read_number(file: Path) -> int | None:
    """Return the number in a file; None if the file is missing or holds no number ("max": no limit)."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
