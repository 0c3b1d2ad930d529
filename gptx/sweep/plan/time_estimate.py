"""How long runs will take: their FLOPs over the rate that finished runs had here, else that of a step that is timed."""

import heapq
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from math import log
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gptx.config.compose import plain_dict
from gptx.runs import checkpoint_files, journal
from gptx.runs.codec import to_json
from gptx.runs.folder import RunFolder
from gptx.sweep.execute.isolated import each
from gptx.sweep.plan.cells import Cell, no_estimate

STARTUP, STARTUP_OF_MANY = 1.5, 8.0  # seconds: composing, the model, a sample; and workers, which import torch
AXES = ("attention", "pos", "window", "ffn", "kernel", "placement")  # what else than size a rate depends on
FAR = log(10)  # runs that differ by more say nothing of each other
TIMING = 20.0  # seconds that steps are timed for; the arms that are left go by the nearest that was
WORTH = 0.02  # of what there is to do, as far as is known: where it is done thereafter, no more is spent on knowing it
FLOPS = 3e10  # of a step that is timed, about


@dataclass(frozen=True)
class Rate:
    """What a run computes on, what it is, and the FLOPs a second that it trains with."""

    place: tuple[Any, ...]
    flops: float  # of a token
    axes: tuple[str, ...]
    rate: float
    timed: bool = False

    def distance(self, flops: float, axes: tuple[str, ...]) -> float:
        return abs(log(self.flops / flops)) + 0.5 * sum(a != b for a, b in zip(self.axes, axes, strict=True))


@dataclass
class Pace:
    """Args:
    outputs: where the finished runs lie.
    jobs: how many runs share the cores.
    here: whether they will run on this machine, so that a step can be timed.
    runs: how many will run thereafter; 0: none, to know is all.
    """

    outputs: Path
    jobs: int
    here: bool = True
    runs: int = 0
    known: list[Rate] = field(default_factory=list)
    spent: float = 0.0
    told: list[float] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for path in journal.runs(self.outputs):
            with suppress(LookupError, TypeError):  # no result, or of another version
                self.known.append(_of(to_json(RunFolder(path).result() or {})))

    def seconds(self, cell: Cell) -> tuple[float | None, str]:
        """Of what is left of a cell, and by what that is known; None: by nothing."""
        where, flops, axes = _place(cell.cfg, cell.facts, self.jobs), cell.facts["flops_per_token"], _axes(cell.cfg)
        near = self._near(where, flops, axes)
        if self._may_time() and cell.arm not in self.failed and (not near or (near[0].timed and near[0].axes != axes)):
            began = time.monotonic()
            [rate] = each(timed, [(plain_dict(cell.cfg), cell.facts, where[-1])], no_estimate(cell.title), alone=True)
            self.spent += time.monotonic() - began
            if rate:
                self.known.append(Rate(where, flops, axes, rate, timed=True))
                near = self._near(where, flops, axes)
            else:
                self.failed.add(cell.arm)
        if not near:
            return None, ""
        seconds = startup(cell.facts["processes"]) + work(cell) / statistics.median(rate.rate for rate in near)
        self.told.append(seconds)
        return seconds, "a timed step" if near[0].timed else f"{len(near)} finished run{'s' * (len(near) > 1)}"

    def _may_time(self) -> bool:
        most = TIMING
        if self.told and self.runs:
            most = min(TIMING, WORTH * statistics.mean(self.told) * self.runs / self.jobs)
        return self.here and self.spent < most

    def _near(self, where: tuple[Any, ...], flops: float, axes: tuple[str, ...]) -> list[Rate]:
        """The three nearest, of the same kind as the nearest of all."""
        fits = [rate for rate in self.known if _alike(rate.place, where) and abs(log(rate.flops / flops)) < FAR]
        fits.sort(key=lambda rate: (rate.timed, rate.distance(flops, axes)))
        return list(islice((rate for rate in fits if rate.timed == fits[0].timed), 1 if fits and fits[0].timed else 3))


def startup(processes: int) -> float:
    """Seconds of a run that are no training."""
    return STARTUP if processes == 1 else STARTUP_OF_MANY


def work(cell: Cell) -> float:
    """FLOPs of what is left to do: training, and validation, where a token has a forward only."""
    cfg, trainer, data = cell.cfg, cell.cfg.trainer, cell.facts["data"]
    saved = checkpoint_files.steps(cell.folder.checkpoints) if cell.folder and not cfg.force else []
    left = trainer.max_steps - (checkpoint_files.number(saved[-1]) if saved else 0)
    validated = min(trainer.val_tokens or data["val_tokens"], data["val_tokens"])
    validations = -(-left // trainer.eval_every)
    tokens = left * trainer.batch_size * cfg.model.context + validations * validated / 3
    return float(tokens * cell.facts["flops_per_token"])


def total(runs: Iterable[tuple[float, int]], jobs: int) -> float:
    """Seconds that runs (their seconds, their processes) take which are started in this order, ``jobs`` processes at
    once."""
    free = [0.0] * jobs
    for seconds, processes in runs:
        taken = [heapq.heappop(free) for _ in range(min(processes, jobs))]
        for _ in taken:
            heapq.heappush(free, max(taken) + seconds)
    return max(free)


def _place(cfg: DictConfig | dict[str, Any], facts: dict[str, Any], jobs: int) -> tuple[Any, ...]:
    """What makes rates comparable; the number of threads of a process is the last of it."""
    hardware, processes = facts["hardware"], facts["processes"]
    threads = cfg["runtime"]["threads"] or max(1, hardware["cores"] // (jobs * processes))
    return hardware["device"], hardware["name"], facts["dtype"], processes, bool(cfg["compile"]), threads


def _alike(known: tuple[Any, ...], where: tuple[Any, ...]) -> bool:
    """Of another machine neither name nor threads are known: then any that has the device will do."""
    device, name, *kind, _ = where
    return known == where if name else (known[0], *known[2:-1]) == (device, *kind)


def _axes(cfg: DictConfig) -> tuple[str, ...]:
    return tuple(cfg.variant[axis] for axis in AXES)


def _of(result: dict[str, Any]) -> Rate:
    flops, speed = result["flops_per_token"], result["tokens_per_s"]
    axes = tuple(result["variant"][axis] for axis in AXES)
    return Rate(_place(result["config"], result, 1), flops, axes, speed * flops)


def timed(given: tuple[dict[str, Any], dict[str, Any], int]) -> float:
    """FLOPs a second of a real training step of a config (plain), with so many threads: a few rows, and the optimiser
    as often as a whole step has it. All processes of a run are thought to be as fast as this one."""
    import torch

    from gptx.config.instantiate import part
    from gptx.data.from_config import tokens
    from gptx.geometry.visibility import documents
    from gptx.hardware.device import autocast, keep_freed_memory, pick
    from gptx.model.build import build
    from gptx.optim.update import decay_groups, update

    plain, facts, threads = given
    cfg = OmegaConf.create(plain)
    device = pick(cfg.device.type)
    torch.set_num_threads(threads)
    keep_freed_memory()
    model = build(cfg, tokens(cfg).tokenizer.n_vocab).to(device)
    optim = part(cfg.optim)(decay_groups(model, cfg.optim.get("weight_decay", 0.0)))
    length = cfg.model.context
    share = -(-cfg.trainer.batch_size // facts["processes"])
    rows = min(cfg.trainer.micro_batch or share, max(1, int(FLOPS / (facts["flops_per_token"] * length))))
    x = torch.randint(model.shape.vocab_size, (rows, length), device=device)
    separator = 0 if cfg.data.get("document_mask", False) else None

    def took(work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    def backward() -> None:
        with autocast(device, getattr(torch, facts["dtype"])):
            loss = model(x, x, None, documents(x, separator))
        loss.backward()

    def step() -> None:
        update(optim, torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.trainer.clip or float("inf")), 0.0)

    times = [(took(backward), took(step)) for _ in range(3)][1:]  # the first one makes what the others use again
    through, stepping = (min(column) for column in zip(*times, strict=True))
    seconds = through * share / rows + stepping
    return float(facts["flops_per_token"] * share * length * facts["processes"] / seconds)
