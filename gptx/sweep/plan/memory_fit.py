"""Check whether a sweep's runs fit into this machine's memory, which settings would make a run fit, and how many runs
fit at once."""

import bisect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gptx.config.overrides import conf_dir
from gptx.data.from_config import tokens_of
from gptx.errors import GptxError
from gptx.memory.estimate import BASE, estimate
from gptx.memory.machine_memory import machine_memory
from gptx.runs.preflight_facts import RunFacts, RunSetup
from gptx.runs.units import memory_text
from gptx.sweep.execute.isolated import map_isolated
from gptx.sweep.plan.cells import Cell, warn_no_estimate

# The config's groups and keys that memory depends on, besides the batch.
COMPUTED_BY = (
    "model attention pos window ffn norm placement kernel strategy tokenizer data compile activation_checkpointing"
)
Change = dict[str, Any]  # dotted keys of a config and their values
FreeMemory = dict[str, int]  # bytes, by device type: what this machine had before the sweep started runs


@dataclass(frozen=True)
class JobLimit:
    """The number of runs that may train at once, and a line for the user if memory allows fewer than requested."""

    jobs: int
    note: str = ""


def check_memory(cells: Sequence[Cell], jobs: int, here: bool = True, free: FreeMemory | None = None) -> JobLimit:
    """Estimate ``memory_bytes`` of the cells that are to run, and reject those too large for this machine.

    Args:
        jobs: the requested number of runs at the same time.
        here: whether they will run on this machine; for another machine nothing is rejected.
        free: free memory of this machine by device, as far as known; missing devices are added.
    """
    to_run = [cell for cell in cells if not cell.rejection and not cell.done]
    _estimate(to_run)
    if not here:
        return JobLimit(jobs)
    known = [cell for cell in to_run if cell.memory_bytes is not None]
    free = {} if free is None else free
    free |= {device: machine_memory(device) for device in set(map(_device, known)) - free.keys()}
    _reject_too_large(known, free)
    return _job_limit([cell for cell in known if not cell.rejection], jobs, free)


def _estimate(cells: Sequence[Cell]) -> None:
    """Store the estimate in the cells; those with the same memory-related keys are estimated once."""
    alike = {_memory_key(cell): cell for cell in cells}
    work = [(cell.config, cell.checked) for cell in alike.values()]
    warnings = [warn_no_estimate(f"the memory of {cell.title}") for cell in alike.values()]
    found = map_isolated(_bytes_of_process, work, on_failure=_Unknown)
    for warn, size in zip(warnings, found, strict=True):
        if isinstance(size, _Unknown):
            warn(size.reason)
    sizes = dict(zip(alike, found, strict=True))
    for cell in cells:
        if isinstance(size := sizes[_memory_key(cell)], int):
            cell.memory_bytes = size


@dataclass(frozen=True)
class _Unknown:
    reason: str


def fits_at_once(cells: Sequence[Cell], free: Mapping[str, int]) -> bool:
    """Whether the cells may run at the same time, as far as is known. A GPU is never shared between runs."""
    sizes, limit = _sizes([cell for cell in cells if cell.memory_bytes is not None]), _shared_memory(free)
    return len(sizes) < 2 or not limit or sum(sizes) <= limit


def _sizes(cells: Sequence[Cell]) -> list[int]:
    """Bytes of each run in the memory that all runs share, the largest first."""
    return sorted((_bytes_of_cell(cell) for cell in cells if _device(cell) != "cuda"), reverse=True)


def _shared_memory(free: Mapping[str, int]) -> int:
    """Free bytes of the memory that all runs share; 0 if unknown."""
    return min((size for device, size in free.items() if device != "cuda"), default=0)


def _memory_key(cell: Cell) -> str:
    """Equal for cells that need the same memory, such as those that differ in a rate or a seed."""
    plain, facts = cell.config, cell.checked
    batch = [plain["trainer"]["batch_size"], plain["trainer"]["micro_batch"], plain["runtime"]["val_batch"]]
    setting = [facts.hardware.device, facts.dtype, facts.processes]
    return json.dumps([[plain[key] for key in COMPUTED_BY.split()], batch, setting])


def _reject_too_large(cells: Sequence[Cell], free: Mapping[str, int]) -> None:
    advice: dict[str, str] = {}
    for cell in cells:
        limit = free[_device(cell)]
        if _bytes_of_cell(cell) > limit:
            key = _memory_key(cell)
            if key not in advice:
                work = TooLarge(cell.config, cell.checked, limit)
                [ways] = map_isolated(
                    smaller_settings, [work], warn_no_estimate(f"settings that would make {cell.title} fit")
                )
                advice[key] = " or ".join(ways or ["a smaller model.d_model or model.n_layer"])
            cell.rejection = f"{_too_large(cell, limit)}; use {advice[key]}"


def _job_limit(cells: Sequence[Cell], jobs: int, free: Mapping[str, int]) -> JobLimit:
    sizes, limit = _sizes(cells), _shared_memory(free)
    if sum(sizes[:jobs]) <= limit:
        return JobLimit(jobs)
    fitting = bisect.bisect_right(list(accumulate(sizes)), limit)
    needed = f"the largest needs about {memory_text(sizes[0])} of {memory_text(limit)} free memory"
    return JobLimit(fitting, f"only {fitting} of {jobs} runs at once: {needed}")


def _device(cell: Cell) -> str:
    return cell.checked.hardware.device


def _too_large(cell: Cell, limit: int) -> str:
    count = cell.checked.processes
    subject = "the run needs"
    if count > 1:
        subject = "each process of the run needs" if _device(cell) == "cuda" else f"its {count} processes need"
    available = "of a GPU of this machine" if _device(cell) == "cuda" else "that this machine has free"
    return f"{subject} about {memory_text(_bytes_of_cell(cell))}, more than the {memory_text(limit)} {available}"


def _bytes_of_cell(cell: Cell) -> int:
    assert cell.memory_bytes is not None
    return _bytes_of_run(cell.memory_bytes, cell.checked)


def _bytes_of_run(of_process: int, setup: RunSetup) -> int:
    """Bytes that a run needs on a device: a CPU is shared by all processes of a run and the main process; a GPU belongs
    to one process."""
    alone = setup.hardware.device == "cuda" or setup.processes == 1
    return of_process if alone else setup.processes * of_process + BASE


def _bytes_of_process(work: tuple[dict[str, Any], RunFacts]) -> int:
    plain, setup = work
    return _estimate_bytes(OmegaConf.create(plain), setup)


def _estimate_bytes(cfg: DictConfig, setup: RunSetup) -> int:
    dtype = getattr(torch, setup.dtype)
    n_vocab = tokens_of(cfg).tokenizer.n_vocab
    return estimate(cfg, n_vocab, setup.hardware.device, dtype, setup.processes).total


@dataclass(frozen=True)
class TooLarge:
    """The config of a run (plain) that does not fit, its setup, and the memory limit in bytes."""

    config: dict[str, Any]
    setup: RunSetup
    limit: int

    def needed(self, change: Change) -> float:
        """Bytes of the run with a change; infinite if that is not possible (pp with few micro-batches)."""
        cfg = OmegaConf.create(self.config)
        for key, value in change.items():
            OmegaConf.update(cfg, key, value, merge=False)
        try:
            return _bytes_of_run(_estimate_bytes(cfg, self.setup), self.setup)
        except GptxError:
            return float("inf")


def smaller_settings(run: TooLarge) -> list[str]:
    """Up to two settings with which the run would fit, each with its estimate; the smallest change comes first."""
    ways = []
    for change in _changes(run):
        if change and (size := run.needed(change)) <= run.limit:
            ways.append(f"{_as_overrides(change)} (about {memory_text(size)})")
    return ways[:2]


def _changes(run: TooLarge) -> list[Change]:
    """Settings that need less memory: micro-batches, recomputed activations, smaller validation batches, fsdp."""
    trainer = run.config["trainer"]
    rows = trainer["micro_batch"] or trainer["batch_size"]
    divisors = [n for n in range(1, rows) if rows % n == 0]
    recompute = {"activation_checkpointing": True}

    def largest(change: Callable[[int], Change]) -> Change:
        """The change by the largest divisor that fits; empty if none does."""
        count = bisect.bisect_left(divisors, True, key=lambda n: run.needed(change(n)) > run.limit)
        return change(divisors[count - 1]) if count else {}

    changes = [
        largest(lambda n: {"trainer.micro_batch": n}),
        recompute,
        largest(lambda n: {"trainer.micro_batch": n, "runtime.val_batch": n}),
        largest(lambda n: {"trainer.micro_batch": n, "runtime.val_batch": n, **recompute}),
    ]
    if run.setup.processes > 1 and run.config["variant"]["strategy"] == "ddp":
        fsdp: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "strategy" / "fsdp.yaml"))
        changes.append({"strategy": {**fsdp, "nproc": run.setup.processes}})
    return changes


def _as_overrides(change: Change) -> str:
    values = {key: "fsdp" if isinstance(value, dict) else str(value).lower() for key, value in change.items()}
    return " ".join(f"{key}={value}" for key, value in values.items())
