"""What is known of a run before anything is started: where it lies, what it costs, and why it cannot be."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gptx import parts
from gptx.config import identity, run_name
from gptx.runfolder import RunFolder


def folder_of(cfg: DictConfig) -> tuple[RunFolder, str]:
    """Where a config's run lies, and its identity. Without torch."""
    name = identity(cfg, parts.corpus(cfg).fingerprint())
    return RunFolder(Path(cfg.paths.outputs) / cfg.study / f"{run_name(cfg)}-{name}"), name


def preflight(cfg: DictConfig) -> tuple[int, dict[str, Any]]:
    """Let every part that knows refuse, before any process is started; returns the processes and the run's facts."""
    import torch

    from gptx.build import build
    from gptx.data.batches import check_context
    from gptx.device import compute_dtype, hardware, pick
    from gptx.measure import cost
    from gptx.plan import Plan

    device = pick(cfg.device.type)
    processes = int(os.environ.get("WORLD_SIZE", "0")) or parts.part(cfg.strategy).processes(cfg.device.type)
    Plan.of(cfg, processes)
    tokenizer = parts.part(cfg.tokenizer)
    with torch.device("meta"):
        build(cfg, cfg.model.vocab_size or (1 if tokenizer.needs_fit else tokenizer.n_vocab))
    tokens = parts.tokens(cfg, quiet=int(os.environ.get("RANK", "0")) > 0)
    check_context(tokens, cfg.model.context)
    with torch.device("meta"):
        price = cost(build(cfg, tokens.tokenizer.n_vocab), compute_dtype(cfg.precision.dtype, device))
    return processes, {
        "data": tokens.meta,
        "hardware": hardware(device),
        "n_params": price.n_params,
        "flops_per_token": price.flops_per_token,
        "kv_bytes_per_token": price.kv_bytes_per_token,
        "tokenizer": tokens.tokenizer.to_json(),
    }
