"""Train models under a strategy and in one process, and report how much the results differ.

``python -m equivalence PROCESSES FOLDER`` reads a list of checks from FOLDER/checks.json and runs them one after the
other in one group of worker processes. Rank r writes FOLDER/r.json: the result of each check.

A check is "KIND STRATEGY,OVERRIDE,OVERRIDE,...": the name of a function of `KINDS`, and a config. Four keywords are
options of the check: pack (several documents in a row), micro=N (rows of a micro-batch), steps=N, compile. The result
of a config that the strategy rejects is the message.
"""

import json
import sys
from collections.abc import Mapping
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from gptx.config.compose import compose
from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.geometry.side_losses import SideLosses
from gptx.geometry.visibility import documents
from gptx.hardware.device import autocast
from gptx.kernel import banded_chunks
from gptx.model.build import build
from gptx.optim.update_step import decay_groups, update
from gptx.processes import workers
from gptx.runs import checkpoint_files
from gptx.strategy.base import Batch, Strategy
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.distributed import full_tensor
from gptx.strategy.fsdp import FSDP
from gptx.training import checkpoint
from gptx.training.evaluation import ValidationSet

VOCAB, CONTEXT, ROWS, SEPARATOR, LR = 31, 16, 8, 3, 0.003
SIZES = ("model.n_head=4", "model.d_model=16", f"model.context={CONTEXT}", "device=cpu", "precision=fp32")
OPTIONS = ("pack", "micro", "steps", "compile")
CHECKPOINT = "step-00000001"

Differences = dict[str, float]


class Case:
    """A config and the rows that it is trained on. The model is in float64, where two orders of a sum differ by less
    than 1e-9, unless the config uses bf16 or pipeline stages, which exchange fp32."""

    def __init__(self, text: str, cfg: DictConfig) -> None:
        options = dict((word + "=1").split("=")[:2] for word in text.split(",") if word.split("=")[0] in OPTIONS)
        self.cfg = cfg
        self.double = cfg.variant.strategy != "pp" and "bf16" not in text
        self.steps, self.micro = int(options.get("steps", 2)), int(options.get("micro", 0))
        self.separator = SEPARATOR if "pack" in options else None
        self.compiled = "compile" in options

    @cached_property
    def rows(self) -> Tensor:
        """(steps, rows, CONTEXT + 1)."""
        return torch.from_numpy(text()[: 20 * ROWS * (CONTEXT + 1)]).view(20, ROWS, CONTEXT + 1)

    def strategy(self, processes: int) -> Strategy:
        """The strategy of the config, to be entered by all workers.

        Raises:
            ConfigError: the model cannot be built, or the strategy cannot split it.
        """
        strategy: Strategy = part(self.cfg.strategy).open("cpu")
        rows = ROWS // strategy.batch_slices(processes)
        with torch.device("meta"):
            strategy.check(build(self.cfg, VOCAB), processes, BatchPlan(ROWS, rows, self.micro or rows // 2))
        if isinstance(strategy, FSDP) and self.double:
            strategy.precision = MixedPrecisionPolicy(cast_forward_inputs=False)  # weights stay in float64
        return strategy


def text() -> np.ndarray:
    """4000 tokens with a structure that a model can learn: random tokens would only amplify rounding errors."""
    random, tokens = np.random.default_rng(0).integers(0, 2, 4000), [0]
    for bit in random[1:]:
        tokens.append((3 * tokens[-1] + int(bit)) % VOCAB)
    return np.array(tokens)


def composed(texts: list[str]) -> dict[str, DictConfig | str]:
    """The config of each case, or why it is rejected. Each rank composes some of them and sends them to the others:
    this takes longer than the training."""
    own = {text: _composed(text) for text in texts[dist.get_rank() :: dist.get_world_size()]}
    of_all_ranks: list[dict[str, DictConfig | str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(of_all_ranks, own)
    return {text: cfg for of_rank in of_all_ranks for text, cfg in of_rank.items()}


def _composed(text: str) -> DictConfig | str:
    strategy, *overrides = text.split(",")
    overrides = [word for word in overrides if word.split("=")[0] not in OPTIONS]
    layers = f"model.n_layer={4 if strategy == 'pp' else 2}"
    once = {word.split("=")[0]: word for word in (*SIZES, layers, f"strategy={strategy}", *overrides)}
    try:
        return compose(list(once.values()))
    except ConfigError as error:
        return str(error)


def single() -> Strategy:
    return part(_single_config()).open("cpu")  # type: ignore[no-any-return]


@cache
def _single_config() -> DictConfig:
    return compose(["strategy=single"]).strategy  # type: ignore[no-any-return]


class Training:
    """A case in training under a strategy."""

    def __init__(self, case: Case, strategy: Strategy, seed: int = 0) -> None:
        self.case, self.strategy = case, strategy
        cfg = OmegaConf.merge(case.cfg, {"seed": seed})
        assert isinstance(cfg, DictConfig)
        self.model = build(cfg, VOCAB)
        if case.double:
            self.model.double()
            torch.manual_seed(seed)
            for parameter in self.model.parameters():  # weights far from zero and from symmetry
                parameter.data += 0.1 * torch.randn_like(parameter)
        self.placed = strategy.place(self.model)
        if case.compiled:
            self.placed = strategy.compile(self.placed)
        self.optim = torch.optim.AdamW(decay_groups(self.model, 0.1), lr=LR)
        dtype = torch.bfloat16 if cfg.precision.dtype == "bf16" else torch.float32
        self.autocast = partial(autocast, torch.device("cpu"), dtype)
        self.gradients: dict[str, Tensor] = {}
        self.history: list[float] = []  # loss and norm of the gradient of each step

    def step(self, rows: Tensor) -> None:
        """One optimiser step of two micro-batches, or more."""
        strategy = self.strategy
        local = rows[strategy.data_rank :: strategy.data_size]
        micro = torch.split(local, self.case.micro or len(local) // 2)
        loss = torch.zeros((), dtype=torch.float64)
        torch.manual_seed(strategy.dropout_stream)
        for i, part_ in enumerate(micro):
            x, y = part_[:, :-1], part_[:, 1:]
            batch = Batch(x, y, documents(x, self.case.separator))
            with strategy.sync(last=i == len(micro) - 1):
                loss += strategy.backward(self.placed, batch, 1 / len(micro), self.autocast, SideLosses())
        norm = strategy.clip(self.model, 0.5)
        gradients = ((name, p.grad) for name, p in self.model.named_parameters())
        self.gradients = {name: full_tensor(g).clone() for name, g in gradients if g is not None}
        assert update(self.optim, norm, LR)
        self.history += [strategy.sum(loss).item() / strategy.loss_ranks, norm.item()]

    def validate(self) -> dict[str, Tensor | float]:
        """Metrics of 7 windows in batches of 3, and the losses by unit: the last batch is not full."""
        tokens = text()[-7 * CONTEXT - 1 :].astype(np.uint16)
        validation_set = ValidationSet(tokens, np.ones(VOCAB, dtype=np.int64), CONTEXT, 0, 3, self.case.separator)
        found = validation_set.evaluate(self.placed, self.strategy, self.autocast)
        assert found.units is not None and len(found.units.nats) > 7
        return {**found.values, "nats": torch.from_numpy(found.units.nats)}


def train(case: Case, strategy: Strategy, folder: Path) -> Differences:
    """Train some steps: differences of losses, norms, gradients, weights and validation from those of one process."""
    many, one = Training(case, strategy), Training(case, single())
    gradients = 0.0
    for rows in case.rows[: case.steps]:
        many.step(rows)
        one.step(rows)
        assert many.gradients, "this rank has no gradients"
        gradients = gradients or largest_difference(many.gradients, one.gradients)
    found = {"gradients": gradients, "first step": difference(many.history[:2], one.history[:2])}
    found["history"] = difference(many.history, one.history)
    found["local weights"] = sum(_local(p).numel() for p in many.model.parameters())
    found["all weights"] = sum(p.numel() for p in one.model.parameters())
    weights, expected = strategy.weights(many.model), one.model.state_dict()
    assert weights.keys() == (expected.keys() if strategy.rank == 0 else set())
    found["weights"] = largest_difference(weights, expected)
    return found | {"validation": largest_difference(many.validate(), one.validate())}


def checkpoints(case: Case, strategy: Strategy, folder: Path) -> Differences:
    """Write a checkpoint under the strategy, read it in one process, and the other way round: differences of weights,
    moments and the next step."""
    found = {}
    for source, target in ((strategy, single()), (single(), strategy)):
        writer, path = Training(case, source), folder / f"by-{type(source).__name__}"
        writer.step(case.rows[0])
        if source is strategy or strategy.rank == 0:
            group = strategy.checkpoint_group if source is strategy else None
            saver = checkpoint.Saver(path, 1, group, strategy.rank == 0)
            saver.save(checkpoint.tensors(writer.model, writer.optim), checkpoint_files.CheckpointMeta(step=1))
            saver.wait()
        dist.barrier()
        reader = Training(case, target, seed=1)
        checkpoint.load(checkpoint_files.steps(path)[-1], reader.model, reader.optim)
        written, read = (checkpoint.tensors(t.model, t.optim) for t in (writer, reader))
        both = sorted(written.keys() & read.keys())  # a pipeline stage has only some of them
        assert len(both) == min(len(written), len(read))
        name = f"read by {type(target).__name__}"
        found[f"tensors {name}"] = max(difference(full_tensor(read[key]), full_tensor(written[key])) for key in both)
        for training in (writer, reader):
            training.step(case.rows[1])
        found[f"next step {name}"] = difference(reader.history, writer.history[2:])
    return found


def dropout(case: Case, strategy: Strategy, folder: Path) -> Differences:
    """Train with dropout: the largest difference between the weights of two ranks."""
    training, worst = Training(case, strategy), 0.0
    for rows in case.rows[: case.steps]:
        training.step(rows)
    for parameter in training.model.parameters():
        own = full_tensor(parameter.detach())
        first = own.clone()
        dist.broadcast(first, 0)
        worst = max(worst, difference(own, first))
    return {"weights": worst}


KINDS = {"train": train, "checkpoints": checkpoints, "dropout": dropout}


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def largest_difference(found: Mapping[str, Tensor | float], expected: Mapping[str, Tensor | float]) -> float:
    """The largest difference over all names."""
    return max((difference(found[name], expected[name]) for name in found), default=0.0)


def difference(found: Tensor | float | list[float], expected: Tensor | float | list[float]) -> float:
    """The largest absolute difference, relative to the largest number that was expected. Some gradients are 0 but for
    rounding, such as those of biases of keys: hence the lower bound."""
    a, b = (torch.as_tensor(numbers).detach().double() for numbers in (found, expected))
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))


def work(folder: str) -> None:
    """Run all checks in one process group, and write the results of this rank."""
    torch.set_num_threads(1)
    torch.compile.__kwdefaults__["backend"] = "aot_eager"  # a strategy affects tracing, not code generation
    banded_chunks.SMALLEST = 2  # the banded kernel then needs several chunks for these short rows
    dist.init_process_group("gloo")
    found: dict[str, Differences | str] = {}
    checks = json.loads(Path(folder, "checks.json").read_text())
    configs = composed(list(dict.fromkeys(check.split(" ", 1)[1] for check in checks)))
    for i, check in enumerate(checks):
        kind, text_ = check.split(" ", 1)
        torch._dynamo.reset()
        try:
            if isinstance(cfg := configs[text_], str):
                raise ConfigError(cfg)
            case = Case(text_, cfg)
            strategy = case.strategy(dist.get_world_size())
        except ConfigError as error:
            found[check] = str(error)
            continue
        with strategy:
            found[check] = KINDS[kind](case, strategy, Path(folder, str(i)))
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    processes, into = int(sys.argv[1]), sys.argv[2]
    assert workers.start(work, (into,), processes, 1, Path(into, "logs")) == 0
