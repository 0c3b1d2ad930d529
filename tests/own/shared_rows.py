"""What processes that share rows compute, beside what one does: ``python -m shared_rows PROCESSES FOLDER``.

Everything is compared in the workers; the first one writes what it found into found.json, for each number of
processes that share a row.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from helpers_model import VOCAB, Arm, arm, kernels, name, options, randomise, rows, tiny, yaml
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

import gptx
from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.geometry.visibility import documents
from gptx.kernel import chunks
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.processes import workers
from gptx.strategy.base import Batch, Strategy
from gptx.strategy.cp import CP
from gptx.strategy.distributed import full_tensor
from gptx.training.evaluation import Validation

CONTEXT, BATCH, SEPARATOR = 24, 4, 3
chunks.SMALLEST = 2  # so that even a piece is several chunks for the banded kernel


@dataclass(frozen=True)
class Case:
    """A tiny model; with documents that are hidden from one another, with activation checkpointing."""

    arm: Arm
    packed: bool = False
    recompute: bool = False

    def __str__(self) -> str:
        return name(self.arm) + "-packed" * self.packed + "-recompute" * self.recompute


def _cases() -> Iterator[Case]:
    """Every attention with every window, beside every encoding; every kernel with every window that it serves."""
    encodings, plain = itertools.cycle(options("pos")), itertools.cycle(("auto", "reference"))
    met = [
        arm(attention=attention, pos=next(encodings), window=window, kernel=next(plain))
        for attention, window in itertools.product(*map(options, ("attention", "window")))
    ]
    pairs = (("gqa", "rope"), ("mha", "alibi"), ("sink", "fire"), ("forgetting", "none"))
    for window in options("window"):
        others = [kernel for kernel in kernels(window) if kernel not in ("auto", "reference")]
        met += [arm(attention=a, pos=p, window=window, kernel=k) for k in others for a, p in pairs]
    for i, one in enumerate(met):
        yield Case(one, packed=i % 2 > 0, recompute=i % 3 == 0)


_FEW = (arm(attention="forgetting", window="sliding", pos="alibi"), arm(attention="mla", window="full", pos="learned"))
CASES = {2: list(_cases()), 4: [Case(one, packed) for one in _FEW for packed in (False, True)]}
SHARING = {2: (2,), 4: (2, 4)}  # of so many processes, how many share a row


def work(processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    found = {}
    for sharing in SHARING[processes]:
        with opened(sharing) as cp:
            cases = {str(case): compared(case, cp) for case in CASES[processes]}
            found[sharing] = {"cases": cases, "validation": validation(cp)}
    if os.environ["RANK"] == "0":
        Path(folder, "found.json").write_text(json.dumps(found))


@contextmanager
def opened(sharing: int) -> Iterator[CP]:
    """A process group of its own, which does not find what another one has left in the launcher's store."""
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    here = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    begin = partial(dist.init_process_group, store=dist.PrefixStore(f"cp {sharing}", store), **here)
    cp = part(gptx.compose(["strategy=cp", f"strategy.cp={sharing}"]).strategy)
    with patch.object(dist, "init_process_group", begin), cp.open("cpu"):
        yield cp


def compared(case: Case, cp: CP) -> dict[str, float] | str:
    """The largest difference of the loss and of any gradient, in float64; or why there is no such model."""
    try:
        model, alone = model_of(case).double(), model_of(replace(case, recompute=False)).double()
    except ConfigError as refusal:
        return str(refusal)
    cp.precision = MixedPrecisionPolicy(cast_forward_inputs=False)
    batch = batch_of(case)
    alone.use_kernel(part(yaml("kernel", "reference"), model.shape, model.kernel.demands))
    loss = Strategy(nproc=1).backward(alone, batch, 1.0, nullcontext)
    shared = cp.backward(cp.place(model), slice_of(batch, cp), 1.0, nullcontext)
    pairs = list(zip(map(gradient, alone.parameters()), map(gradient, model.parameters()), strict=True))
    return {
        "loss": abs(float(cp.sum(shared) / cp.loss_ranks - loss)),
        "gradients": max(float((ours - expected).abs().max()) for expected, ours in pairs),
        "largest": max(float(expected.abs().max()) for expected, _ in pairs),
    }


def model_of(case: Case) -> GPT:
    cfg = tiny(case.arm, context=CONTEXT)
    cfg.activation_checkpointing = case.recompute
    model = build(cfg, VOCAB)
    randomise(model)
    return model


def batch_of(case: Case) -> Batch:
    tokens = rows(BATCH, CONTEXT + 1)
    x, y = tokens[:, :-1], tokens[:, 1:]
    return Batch(x, y, documents(x, SEPARATOR if case.packed else None))


def slice_of(batch: Batch, cp: CP) -> Batch:
    """The rows of this process's slice of the data."""
    mine = slice(cp.data_rank * BATCH // cp.data_size, (cp.data_rank + 1) * BATCH // cp.data_size)
    return Batch(batch.x[mine], batch.y[mine], None if batch.documents is None else batch.documents[mine])


def gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return full_tensor(parameter.grad)


def validation(cp: CP) -> dict[str, Any]:
    """By one process, and by all; the last batch is not full."""
    tokens = rows(1, 7 * CONTEXT + 2)[0].numpy()
    case = Case(arm(attention="gqa", pos="rope", window="sliding"), packed=True)
    made = Validation(tokens, np.ones(VOCAB, dtype=np.int64), CONTEXT, 0, 3, SEPARATOR)
    one = Strategy(nproc=1)
    return {
        "one": made.run(one.place(model_of(case)), one, nullcontext),
        "all": made.run(cp.place(model_of(case)), cp, nullcontext),
    }


if __name__ == "__main__":
    count, into = int(sys.argv[1]), sys.argv[2]
    print(workers.start(work, (count, into), count, 1, Path(into, "logs")))
