"""Time a real training step of a config that has never been run here."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gptx.runs.preflight_facts import RunSetup

MAX_FLOPS = 3e10  # of the timed forward and backward, about


@dataclass(frozen=True)
class StepToTime:
    """The config of a run (plain), its setup, and the number of CPU threads."""

    config: dict[str, Any]
    setup: RunSetup
    threads: int


@dataclass(frozen=True)
class _Times:
    """Seconds of forward and backward, and of the optimiser."""

    forward_backward: float
    optimiser: float


def flops_per_second(step: StepToTime) -> float:
    """Training speed of a config, from one step with a few rows: the time of forward and backward is scaled to all
    rows, and that of the optimiser is added once. All processes of a run are assumed to be as fast as this one."""
    cfg, setup = OmegaConf.create(step.config), step.setup
    flops_per_row = setup.flops_per_token * cfg.model.context
    rows_of_process = -(-cfg.trainer.batch_size // setup.processes)
    rows = min(cfg.trainer.micro_batch or rows_of_process, max(1, int(MAX_FLOPS / flops_per_row)))
    times = _time(cfg, setup.dtype, rows, step.threads)
    seconds = times.forward_backward * rows_of_process / rows + times.optimiser
    return float(flops_per_row * rows_of_process * setup.processes / seconds)


def _time(cfg: DictConfig, dtype: str, rows: int, threads: int) -> _Times:
    """The shortest of two steps, after a first one that warms up."""
    import torch

    from gptx.config.instantiate import part
    from gptx.data.from_config import tokens_of
    from gptx.geometry.visibility import documents
    from gptx.hardware.cpu import keep_freed_memory
    from gptx.hardware.device import autocast, pick
    from gptx.model.build import build
    from gptx.optim.update_step import decay_groups, update

    device = pick(cfg.device.type)
    torch.set_num_threads(threads)
    keep_freed_memory()
    model = build(cfg, tokens_of(cfg).tokenizer.n_vocab).to(device)
    optim = part(cfg.optim)(decay_groups(model, cfg.optim.get("weight_decay", 0.0)))
    x = torch.randint(model.shape.vocab_size, (rows, cfg.model.context), device=device)
    separator = 0 if cfg.data.get("document_mask", False) else None

    def forward_backward() -> None:
        with autocast(device, getattr(torch, dtype)):
            loss = model(x, x, None, documents(x, separator))
        loss.backward()

    def optimiser_step() -> None:
        update(optim, torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.trainer.clip or float("inf")), 0.0)

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = [(_seconds(forward_backward, wait), _seconds(optimiser_step, wait)) for _ in range(3)][1:]
    return _Times(*(min(column) for column in zip(*times, strict=True)))


def _seconds(work: Callable[[], object], wait: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
