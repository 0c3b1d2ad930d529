"""What processes do that share a model's heads: ``python -m tensor_parallel FUNCTION FOLDER STRATEGY WORDS...`` writes
what each of the cases (words of a config, joined by commas) comes to."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

import gptx
from gptx.config.instantiate import part
from gptx.config.plain import plain_dict
from gptx.model.build import build
from gptx.optim.update import decay_groups, update
from gptx.processes import workers
from gptx.strategy.base import Batch, Strategy
from gptx.strategy.distributed import Distributed, full_tensor
from gptx.strategy.single import Single
from gptx.training import checkpoint

VOCAB, ROWS, CONTEXT = 11, 4, 12
TINY = f"model.n_layer=2 model.n_head=4 model.d_model=16 model.context={CONTEXT} device=cpu precision=fp32".split()


@dataclass
class Arm:
    """A model in float64 that one strategy trains, with weights that are far from zero and from symmetry."""

    cfg: DictConfig
    strategy: Strategy

    def __post_init__(self) -> None:
        self.model = build(self.cfg, VOCAB).double()
        torch.manual_seed(self.cfg.seed)
        for parameter in self.model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        self.placed = self.strategy.place(self.model)
        self.optim = part(self.cfg.optim)(decay_groups(self.model, 0.1))

    def step(self, number: int) -> tuple[Tensor, Tensor]:
        """The loss, and the norm before gradients were clipped; two micro-batches."""
        rows = torch.randint(VOCAB, (ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(number))
        mine = rows.chunk(self.strategy.data_size)[self.strategy.data_rank]
        loss = torch.zeros((), dtype=torch.float64)
        torch.manual_seed(self.strategy.dropout_stream)  # of dropout
        for i, micro in enumerate(mine.chunk(2)):
            with self.strategy.sync(last=i == 1):
                batch = Batch(micro[:, :-1], micro[:, 1:])
                loss += self.strategy.backward(self.placed, batch, 0.5, nullcontext)
        return self.strategy.sum(loss) / self.strategy.loss_ranks, self.strategy.clip(self.model, 0.1)

    def gradients(self) -> dict[str, Tensor]:
        return {name: full_tensor(p.grad) for name, p in self.model.named_parameters() if p.grad is not None}

    def weights(self) -> dict[str, Tensor]:
        return {name: full_tensor(p.detach()) for name, p in self.model.named_parameters()}

    def steps(self, first: int, last: int) -> list[float]:
        """The losses."""
        losses = []
        for number in range(first, last):
            loss, norm = self.step(number)
            update(self.optim, norm, 0.01)
            losses.append(loss.item())
        return losses


def against_one_process(strategy: Distributed, cfg: DictConfig, folder: Path) -> dict[str, float]:
    """Three steps: how far loss, norm, gradients and weights are from those of one process, at most."""
    one, many = Arm(cfg, Single(nproc=1)), Arm(cfg, strategy)
    off = dict.fromkeys(("loss", "norm", "gradients", "weights"), 0.0)
    for number in range(3):
        for key, a, b in zip(("loss", "norm"), many.step(number), one.step(number), strict=True):
            off[key] = max(off[key], distance(a, b))
        off["gradients"] = max(off["gradients"], apart(many.gradients(), one.gradients()))
        for arm, norm in ((one, torch.ones(())), (many, torch.ones(()))):
            update(arm.optim, norm, 0.01)
        off["weights"] = max(off["weights"], apart(many.weights(), one.weights()))
    assert set(strategy.weights(many.model)) == (set(one.model.state_dict()) if strategy.rank == 0 else set())
    cut = sum(p.to_local().numel() < p.numel() for p in many.model.parameters() if isinstance(p, DTensor))
    return off | {"cut": cut}


def dropping(strategy: Distributed, cfg: DictConfig, folder: Path) -> dict[str, float]:
    """Three steps with dropout: how far apart processes are in what each of them computes."""
    arm = Arm(cfg, strategy)
    arm.steps(0, 3)
    worst = 0.0
    for mine in arm.weights().values():
        first = mine.clone()
        dist.broadcast(first, 0)
        worst = max(worst, float((mine - first).abs().max()))
    return {"drift": worst}


def crossing(strategy: Distributed, cfg: DictConfig, folder: Path) -> dict[str, float]:
    """Two steps, a checkpoint, two more; and the last two by who read it: in one process, and the other way round."""
    off = {}
    for there, here in ((strategy, Single(nproc=1)), (Single(nproc=1), strategy)):
        arm, path = Arm(cfg, there), folder / f"by-{type(there).__name__}"
        begun = arm.steps(0, 2)
        if there is strategy or strategy.rank == 0:
            saver = checkpoint.Saver(path, 1, there.cpu_group, strategy.rank == 0)
            saver.save(2, checkpoint.tensors(arm.model, arm.optim), {})
            saver.wait()
        dist.barrier()
        reader = Arm(OmegaConf.merge(cfg, {"seed": 1}), here)
        assert reader.steps(0, 1) != begun[:1]  # it is another model yet
        checkpoint.load(path / "step-00000002", reader.model, reader.optim)
        off[f"to {type(here).__name__}"] = apart(reader.weights(), arm.weights())
        losses = torch.tensor(arm.steps(2, 4)), torch.tensor(reader.steps(2, 4))
        off[f"then {type(here).__name__}"] = distance(*losses)
    return off


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert set(found) == set(expected), set(found) ^ set(expected)
    return max(distance(found[name], expected[name]) for name in expected)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest number."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def work(function: str, folder: str, arm: dict[str, Any], cases: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    what: Callable[..., Any] = globals()[function]
    told = {}
    with part(OmegaConf.create(arm)).open("cpu") as strategy:
        strategy.precision = MixedPrecisionPolicy(cast_forward_inputs=False)  # as the weights are: in float64
        for i, (case, cfg) in enumerate(cases.items()):
            told[case] = what(strategy, OmegaConf.create(cfg), Path(folder) / str(i))
        if strategy.rank == 0:
            Path(folder, "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    name, home, arm, *given = sys.argv[1:]
    composed = {case: plain_dict(gptx.compose([*TINY, f"strategy={arm}", *case.split(",")])) for case in given}
    [strategy, *_] = [cfg["strategy"] | {"timeout": 120} for cfg in composed.values()]
    count = {"tp": 2, "fsdp_tp": 4}[arm]
    assert workers.start(work, (name, home, strategy, composed), count, 1, Path(home, "logs")) == 0
