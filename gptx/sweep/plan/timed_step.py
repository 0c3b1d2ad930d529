"""Time a real training step of a config that has never been run here."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from gptx.runs.facts import RunSetup

MAX_FLOPS = 3e10  # of the timed forward and backward, about


@dataclass(frozen=True)
class StepToTime:
    """The config of a run (plain), its setup, and the number of CPU threads."""

    config: dict[str, Any]
    setup: RunSetup
    threads: int


def flops_per_second(step: StepToTime) -> float:
    """Training speed of a config, from one step with a few rows: the time of forward and backward is scaled to all
    rows, and that of the optimiser is added once. All processes of a run are assumed to be as fast as this one."""
    import torch

    from gptx.config.instantiate import part
    from gptx.data.from_config import tokens
    from gptx.geometry.visibility import documents
    from gptx.hardware.cpu import keep_freed_memory
    from gptx.hardware.device import autocast, pick
    from gptx.model.build import build
    from gptx.optim.update import decay_groups, update

    cfg, setup = OmegaConf.create(step.config), step.setup
    device = pick(cfg.device.type)
    torch.set_num_threads(step.threads)
    keep_freed_memory()
    model = build(cfg, tokens(cfg).tokenizer.n_vocab).to(device)
    optim = part(cfg.optim)(decay_groups(model, cfg.optim.get("weight_decay", 0.0)))
    context, flops_per_token = cfg.model.context, setup.flops_per_token
    rows_of_process = -(-cfg.trainer.batch_size // setup.processes)
    rows = min(cfg.trainer.micro_batch or rows_of_process, max(1, int(MAX_FLOPS / (flops_per_token * context))))
    x = torch.randint(model.shape.vocab_size, (rows, context), device=device)
    separator = 0 if cfg.data.get("document_mask", False) else None

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def forward_backward() -> None:
        with autocast(device, getattr(torch, setup.dtype)):
            loss = model(x, x, None, documents(x, separator))
        loss.backward()

    def optimiser_step() -> None:
        update(optim, torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.trainer.clip or float("inf")), 0.0)

    times = [(seconds(forward_backward), seconds(optimiser_step)) for _ in range(3)][1:]  # the first one warms up
    pass_seconds, step_seconds = (min(column) for column in zip(*times, strict=True))
    total = pass_seconds * rows_of_process / rows + step_seconds
    return float(flops_per_token * rows_of_process * context * setup.processes / total)
