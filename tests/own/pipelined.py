"""What the workers of strategy=pp compute and a single process too: ``python -m pipelined FUNCTION PROCESSES FOLDER``.

Each worker writes FOLDER/RANK.json: for every case what differs, and by how much, as a share of what it should be."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import gptx
from gptx.config.instantiate import part
from gptx.geometry.visibility import documents
from gptx.hardware.device import autocast
from gptx.model.build import build
from gptx.optim.update import decay_groups, update
from gptx.processes import workers
from gptx.runs import checkpoint_files
from gptx.strategy.base import Batch, Strategy
from gptx.strategy.distributed import full_tensor
from gptx.training import checkpoint
from gptx.training.evaluation import Validation

VOCAB, CONTEXT, ROWS, SEPARATOR, LR = 31, 16, 8, 3, 0.003
TINY = ("model.n_layer=4", "model.n_head=4", "model.d_model=16", f"model.context={CONTEXT}", "device=cpu")

CASES: dict[str, list[str]] = {
    "rope": ["attention=gqa", "pos=rope", "window=sliding"],
    "learned": ["attention=mha", "pos=learned", "window=full", "model.tie=false"],
    "learned, tied": ["attention=mqa", "pos=learned", "window=full", "placement=peri"],
    "t5": ["attention=gqa", "pos=t5", "window=alternating"],
    "fire": ["attention=gated", "pos=fire", "window=full", "model.tie=false", "norm=rmsnorm"],
    "kerple": ["attention=mla", "pos=kerple", "window=strided", "ffn=swiglu"],
    "rope_alpha": ["attention=gqa", "pos=rope_alpha", "window=chunked", "placement=post"],
    "rope_dual": ["attention=differential", "pos=rope_dual", "window=alternating"],
    "packed": ["attention=forgetting", "pos=rope_alpha", "window=sliding", "pack"],
    "packed, t5": ["attention=sink", "pos=t5", "window=alternating", "model.tie=false", "pack"],
    "alibi": ["attention=mha", "pos=alibi", "window=dilated"],
    "accumulated": ["attention=gqa", "pos=t5", "micro=4"],
    "bf16": ["attention=gqa", "pos=rope", "window=sliding", "precision=bf16"],
    "bf16, fire": ["attention=mha", "pos=fire", "window=alternating", "precision=bf16"],
    "20 steps, rope": ["attention=gqa", "pos=rope", "window=sliding", "steps=20"],
    "20 steps, learned": ["attention=mha", "pos=learned", "window=full", "steps=20"],
    "recomputed": ["attention=gqa", "pos=t5", "window=alternating", "activation_checkpointing=true"],
    "chunks": ["attention=gqa", "pos=rope", "strategy.chunks=2"],
}
COMPILED = {"compiled": ["attention=gqa", "pos=rope", "compile"]}
OF_FOUR: dict[str, list[str]] = {
    "4 stages": ["attention=gqa", "pos=t5", "window=alternating"],
    "4 stages, untied": ["attention=mha", "pos=learned", "model.tie=false", "pack"],
    "2 x 2": ["strategy.pp=2", "attention=gqa", "pos=rope_alpha", "window=alternating", "pack"],
    "2 x 2, accumulated": ["strategy.pp=2", "attention=mha", "pos=fire", "micro=2"],
    "2 x 2, bf16 weights": ["strategy.pp=2", "attention=gqa", "pos=rope", "strategy.param_dtype=bf16"],
    "2 x 2, 20 steps": ["strategy.pp=2", "attention=mha", "pos=learned", "model.tie=false", "steps=20"],
    "1 stage": ["strategy.pp=1", "attention=gqa", "pos=rope"],
}
OWN = ("pack", "micro=", "steps=", "compile")


class Case:
    """One config, trained by one strategy or another on the same rows."""

    def __init__(self, words: list[str]) -> None:
        own = dict((word + "=1").split("=")[:2] for word in words if word.startswith(OWN))
        words = [word for word in words if not word.startswith(OWN)]
        self.cfg = gptx.compose([*TINY, "precision=fp32", "strategy=pp", *words])
        self.steps, self.micro = int(own.get("steps", 3)), int(own.get("micro", 0))
        self.separator = SEPARATOR if "pack" in own else None
        self.compiled = "compile" in own
        rows = text()
        self.rows = torch.from_numpy(rows[: 20 * ROWS * (CONTEXT + 1)]).view(20, ROWS, CONTEXT + 1)
        self.val = rows[3000:].astype(np.uint16)
        dtype = torch.bfloat16 if self.cfg.precision.dtype == "bf16" else torch.float32
        self.autocast = partial(autocast, torch.device("cpu"), dtype)


class Training:
    """Of a case, under a strategy."""

    def __init__(self, case: Case, strategy: Strategy) -> None:
        self.case, self.strategy = case, strategy
        self.model = build(case.cfg, VOCAB)
        self.placed = strategy.place(self.model)
        if case.compiled:
            strategy.compile(self.placed)
        self.optim = torch.optim.AdamW(decay_groups(self.model, 0.1), lr=LR)
        self.gradients: dict[str, Tensor] = {}
        self.told: list[float] = []  # loss and norm of each step

    def step(self, rows: Tensor) -> None:
        strategy, case = self.strategy, self.case
        mine = rows[strategy.data_rank :: strategy.data_size]
        micro = torch.split(mine, case.micro or len(mine))
        loss = torch.zeros(())
        for i, one in enumerate(micro):
            x, y = one[:, :-1], one[:, 1:]
            batch = Batch(x, y, documents(x, case.separator))
            with strategy.sync(last=i == len(micro) - 1):
                loss += strategy.backward(self.placed, batch, 1 / len(micro), case.autocast)
        norm = strategy.clip(self.model, 0.5)
        self.gradients = {
            name: full_tensor(p.grad).clone() for name, p in self.model.named_parameters() if p.grad is not None
        }
        assert update(self.optim, norm, LR)
        self.told += [strategy.sum(loss).item() / strategy.loss_ranks, norm.item()]

    def validate(self) -> dict[str, float]:
        bytes_of = np.ones(VOCAB, dtype=np.int64)
        validation = Validation(self.case.val, bytes_of, CONTEXT, 0, 3, self.case.separator)
        return validation.run(self.placed, self.strategy, self.case.autocast)


def text() -> np.ndarray:
    """Of which a model can learn something: of pure chance it learns the rounding."""
    chance, tokens = np.random.default_rng(0).integers(0, 2, 4000), [0]
    for one in chance[1:]:
        tokens.append((3 * tokens[-1] + int(one)) % VOCAB)
    return np.array(tokens)


def apart(one: Any, other: Any) -> float:
    """The largest difference, as a share of the largest number."""
    a, b = (torch.as_tensor(number).detach().double() for number in (one, other))
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def differences(case: Case, strategy: Strategy) -> dict[str, float]:
    """Of everything that training tells, from what a single process does."""
    here, alone = Training(case, strategy), Training(case, single())
    found = {"gradients": 0.0}
    for step in range(case.steps):
        for training in (here, alone):
            training.step(case.rows[step])
        if not step:
            assert here.gradients, "no gradients here"
            found["gradients"] = max(apart(g, alone.gradients[name]) for name, g in here.gradients.items())
            found["told first"] = apart(here.told, alone.told)
    found["weights here"] = sum(p.numel() for p in here.model.parameters())
    found["weights in all"] = sum(p.numel() for p in alone.model.parameters())
    found["told"] = apart(here.told, alone.told)
    weights, state = strategy.weights(here.model), alone.model.state_dict()
    if strategy.rank == 0:
        assert weights.keys() == state.keys(), weights.keys() ^ state.keys()
        found["weights"] = max(apart(tensor, state[name]) for name, tensor in weights.items())
    val, expected = here.validate(), alone.validate()
    found["validation"] = max(apart(val[key], expected[key]) for key in expected)
    return found


def single() -> Strategy:
    return part(gptx.compose(["strategy=single"]).strategy).open("cpu")  # type: ignore[no-any-return]


def strategy_of(words: list[str]) -> Strategy:
    return part(Case(words).cfg.strategy).open("cpu")  # type: ignore[no-any-return]


def begin() -> None:
    """One process group, in which the strategies take turns."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")


def end(folder: str, found: dict[str, Any]) -> None:
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def compared(cases: dict[str, list[str]], folder: str) -> None:
    """Every case against a single process."""
    begin()
    found = {}
    for name, words in cases.items():
        with strategy_of(words) as strategy:
            found[name] = differences(Case(words), strategy)
    end(folder, found)


def two(folder: str) -> None:
    compared(CASES, folder)


def compiled(folder: str) -> None:
    compared(COMPILED, folder)


def four(folder: str) -> None:
    compared(OF_FOUR, folder)


def saved(folder: str) -> None:
    """Saved by stages and loaded by one process, and the other way round."""
    begin()
    found = {}
    for words in (["pos=t5", "model.tie=false"], ["pos=learned"], ["pos=t5", "strategy.pp=1"]):
        case = Case(["attention=gqa", *words])
        with strategy_of(words) as strategy:
            staged, alone = Training(case, strategy), Training(case, single())
            for training in (staged, alone):
                training.step(case.rows[0])
            for way, giver, taker in (("to one", staged, single()), ("to stages", alone, strategy)):
                taken = hand_over(case, giver, taker, strategy, Path(folder, f"{words} {way}"))
                found[f"{' '.join(words)} {way}"] = same_from_here(giver, taken, case.rows[1])
    end(folder, found)


def hand_over(case: Case, giver: Training, taker: Strategy, group: Strategy, path: Path) -> Training:
    spread = giver.strategy is group
    if spread or group.rank == 0:
        saver = checkpoint.Saver(path, 1, group.checkpoint_group if spread else None, group.rank == 0)
        saver.save(1, checkpoint.tensors(giver.model, giver.optim), {})
        saver.wait()
    group.max(0)
    taken = Training(case, taker)
    checkpoint.load(checkpoint_files.steps(path)[-1], taken.model, taken.optim)
    return taken


def same_from_here(giver: Training, taken: Training, rows: Tensor) -> dict[str, float]:
    """How far weights and moments are apart, those that lie in this process with both; and the next step."""
    own, other = (checkpoint.tensors(t.model, t.optim) for t in (giver, taken))
    both = own.keys() & other.keys()
    assert len(both) == min(len(own), len(other)), "a tensor is lost"
    worst = max(apart(full_tensor(other[name]), full_tensor(own[name])) for name in sorted(both))
    for training in (giver, taken):
        training.step(rows)
    return {"tensors": worst, "next step": apart(taken.told[-2:], giver.told[-2:])}


if __name__ == "__main__":
    print(workers.start(globals()[sys.argv[1]], (sys.argv[3],), int(sys.argv[2]), 1, Path(sys.argv[3], "logs")))
