"""Every strategy with everything that composes with it, in one process: what does not depend on how many there are."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

import gptx
from gptx.config.instantiate import part
from gptx.config.overrides import options
from gptx.model.build import build
from gptx.optim.update import decay_groups, update
from gptx.processes import workers
from gptx.strategy.base import Batch

SIZES = ["device=cpu", "precision=fp32", "model.n_layer=2", "model.n_head=4", "model.d_model=32", "model.context=16"]
ALONE = {"hsdp": ["strategy.shard=1"], "fsdp_tp": ["strategy.tp=1"]}
WITH = {
    "alone": [],
    "checkpointing": ["activation_checkpointing=true"],
    "experts": ["ffn=moe"],
    "experts and checkpointing": ["ffn=moe", "activation_checkpointing=true"],
}
SHARDING = {
    "offload": ["strategy.offload=true"],
    "reshard": ["strategy.reshard=false"],
    "prefetch": ["strategy.prefetch=1"],
    "bf16 sums": ["strategy.reduce_dtype=bf16"],
    "bf16 weights": ["strategy.param_dtype=bf16"],
}
ROWS = torch.randint(65, (4, 17), generator=torch.Generator().manual_seed(0))


def losses(strategy: str, words: Sequence[str], compiled: bool) -> list[float]:
    """Of three steps with two micro-batches each."""
    torch._dynamo.reset()
    cfg = gptx.compose([*SIZES, f"strategy={strategy}", *ALONE.get(strategy, ()), *words])
    with part(cfg.strategy).open("cpu") as spread:
        model = build(cfg, 65)
        placed = spread.place(model)
        placed = spread.compile(placed) if compiled else placed
        optim = part(cfg.optim)(decay_groups(model, 0.1))
        told = []
        for _ in range(3):
            loss = 0.0
            for i, half in enumerate(ROWS.chunk(2)):
                with spread.sync(last=i == 1):
                    batch = Batch(half[:, :-1], half[:, 1:])
                    loss += float(spread.backward(placed, batch, 0.5, contextlib.nullcontext))
            update(optim, spread.clip(model, 1.0), 0.01)
            told.append(loss)
    return told


def work(folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.compile.__kwdefaults__["backend"] = "aot_eager"  # what a strategy can break is the tracing
    found = {}
    for strategy in options("strategy"):
        for name, words in WITH.items():
            for compiled in (False, True):
                found[f"{strategy}, {name}{', compiled' * compiled}"] = losses(strategy, words, compiled)
    found |= {f"fsdp, {name}": losses("fsdp", words, False) for name, words in SHARDING.items()}
    Path(folder, "told.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    workers.start(work, (sys.argv[1],), 1, 1, Path(sys.argv[1], "logs"))
