"""Pipeline parallel: the layers are cut into stages, and a batch goes through them in chunks, one forward and one
backward in turn (1F1B: PipeDream-Flush, Narayanan et al. 2021). torch's `distributed.pipelining`.

Letters: B batch, T time, D model width, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from gptx.errors import ConfigError, option
from gptx.geometry.side_losses import SideLosses
from gptx.model.cache import NoContext
from gptx.model.gpt import GPT
from gptx.strategy.base import Autocast, Batch
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.cut import serves_heads
from gptx.strategy.distributed import add_up, degree, whole
from gptx.strategy.fsdp import DTYPES, FSDP
from gptx.strategy.tp import mixed


class Stage(nn.Module):
    """The part of a model that lies here: from what the stage before has made to what the next one needs.

    Args:
        dtype: of the residual stream between two stages.
    """

    autocast: Autocast = nullcontext

    def __init__(self, model: GPT, first: bool, last: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.first, self.last, self.dtype = model, first, last, dtype

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.model.blocks[layer] for layer in self.model.layers]

    def forward(self, x: Tensor, documents: Tensor | None = None, targets: Tensor | None = None) -> Tensor:
        """Tokens (B, T) or the residual stream (B, T, D) -> the stream, or what `GPT.output` makes of it."""
        model, context, side = self.model, NoContext(), SideLosses()
        with self.autocast():
            where = context.where(set(model.windows), x, documents)
            x = model.embed_tokens(x, where) if self.first else x
            x = model.run_layers(x, where, context, side)
            return model.output(x, targets, side) if self.last else x.to(self.dtype)


ID = "strategy.pp"
REVISION = 1


class PP(FSDP):
    """Args:
    pp: stages; 0: as many as processes. With fewer, each is cut over several processes as fsdp does it.
    chunks: what a micro-batch is cut into, at least as many as stages; 0: about four times as many.
    """

    pipeline: Schedule1F1B | None = None  # made with the first batch, whose rows it is for
    share: float = 1.0  # of a chunk in the gradient
    ends: Any = None  # a group of the first and the last stage

    def __init__(self, *, pp: int, chunks: int, **rest: Any) -> None:
        super().__init__(**rest)
        if chunks < 0:
            raise ConfigError(f"strategy.chunks={chunks}: expected 0 (about four a stage) or more")
        self.pp, self.chunks, self.dtype = pp, chunks, DTYPES[rest["param_dtype"]]

    def shape(self, processes: int) -> dict[str, int]:
        stages = degree("pp", self.pp, processes)
        return {"pp": stages, "data": processes // stages}

    def check(self, model: GPT, processes: int, plan: BatchPlan) -> None:
        stages, data = self.shape(processes).values()
        layers, rows = model.shape.n_layer, plan.micro_batch
        if layers % stages:
            fits = [n for n in range(2, stages) if layers % n == 0 and processes % n == 0]
            fewer = f"strategy.pp={fits[-1]} or " if fits else ""
            raise ConfigError(
                f"model.n_layer={layers} cannot be cut into {stages} stages (strategy.pp={self.pp}): "
                f"{fewer}model.n_layer={stages * max(1, round(layers / stages))} would do"
            )
        if rows < stages:
            larger = [n for n in range(stages, plan.share + 1) if plan.share % n == 0]
            use = f"trainer.micro_batch={larger[0]}" if larger else f"trainer.batch_size={stages * data}"
            raise ConfigError(f"micro-batches of {rows} rows do not fill the {stages} stages of strategy=pp: use {use}")
        if self.chunks not in (0, near := self.cuts(rows, stages)):
            raise ConfigError(
                f"strategy.chunks={self.chunks}: expected a divisor of the micro-batch's {rows} rows, and not less "
                f"than the {stages} stages: strategy.chunks={near} would do"
            )
        idle = {"reduce_dtype": self.reduce_dtype == "bf16", "reshard": not self.reshard, "prefetch": self.prefetch > 0}
        if data == 1 and (found := [name for name, given in idle.items() if given]):
            raise ConfigError(
                f"strategy.{found[0]} is for stages that are cut over several processes, and here each is one: leave "
                "it out, or use fewer stages (strategy.pp)"
            )
        if mixed(model.pos):
            raise ConfigError(
                f"pos={option(model.pos)} has weights for embeddings and for heads, which strategy=pp keeps in "
                "different stages: use strategy=fsdp"
            )
        if model.ffns[0].has_side_losses:
            raise ConfigError(
                f"strategy=pp makes the loss in the last of its stages, and ffn={option(model.ffns[0])} has losses and "
                "figures in all of them: use strategy=fsdp"
            )

    def cuts(self, rows: int, stages: int) -> int:
        """How many chunks a micro-batch of so many rows is cut into: of what is possible the nearest to what is
        wanted."""
        fits = [n for n in range(stages, rows + 1) if rows % n == 0]
        return min(fits, key=lambda n: abs(n - (self.chunks or 4 * stages)))

    def __enter__(self) -> "PP":
        super().__enter__()
        self.stages, self.stage = self.mesh["pp"].size(), self.mesh.get_local_rank("pp")
        self.first, self.last = self.stage == 0, self.stage == self.stages - 1
        self.speaks, self.voices = self.last, self.data_size
        if self.stages > 1:
            pairs = [[ranks[0], ranks[-1]] for ranks in self.mesh.mesh.T.tolist()]
            self.ends, _ = dist.new_subgroups_by_enumeration(pairs, timeout=timedelta(seconds=self.timeout))
        return self

    def place(self, model: GPT) -> nn.Module:
        """Keep what is this stage's: the rest has no weights here, and names stay as they are."""
        each, tied = model.shape.n_layer // self.stages, model.head is None
        embeds = not serves_heads(model.pos)  # it works at the input, and nowhere else
        model.keep_stage(range(self.stage * each, (self.stage + 1) * each), first=self.first, last=self.last)
        stage = Stage(model, self.first, self.last, self.dtype).to(self.device)
        if self.data_size > 1 or self.offload or self.dtype != torch.float32:
            self.wrap(stage, stage.blocks)
        every = self.mesh.get_group("pp")
        self.shared: list[tuple[Tensor, Any]] = [] if embeds else [(p, every) for p in model.pos.parameters()]
        if tied and self.stages > 1 and (self.first or self.last):
            self.shared.append((model.embed.weight, self.ends))
        self.pipeline = None
        return stage

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()  # the schedule lets gradients meet after its last chunk

    def backward(self, placed: nn.Module, batch: Batch, share: float, autocast: Autocast) -> Tensor:
        assert isinstance(placed, Stage)
        placed.autocast = autocast
        chunks = self.cuts(len(batch.x), self.stages)
        self.pipeline, self.share = self.pipeline or self._pipeline(placed, chunks), share / chunks
        given: dict[str, Any] = {} if batch.documents is None else {"documents": batch.documents}
        losses: list[Tensor] = []
        if self.last:
            given["targets"] = batch.y
        target = batch.y if self.last else None  # the stage has them already; the schedule insists
        tokens = [batch.x] if self.first else []
        self.pipeline.step(*tokens, target=target, losses=losses, return_outputs=False, **given)
        return torch.stack(losses).detach().sum() if losses else torch.zeros((), device=self.device)

    def _pipeline(self, placed: Stage, chunks: int) -> Schedule1F1B:
        group = self.mesh.get_group("pp")
        stage = PipelineStage(placed, self.stage, self.stages, self.device, group=group)
        return Schedule1F1B(stage, chunks, loss_fn=lambda loss, _: loss * self.share, scale_grads=False)

    def predict(self, placed: nn.Module, batch: Batch, autocast: Autocast) -> tuple[Tensor, Tensor] | None:
        """Whole batches go from stage to stage: while one is in the second, the first computes the next."""
        assert isinstance(placed, Stage)
        placed.autocast = autocast
        x, group = batch.x, self.mesh.get_group("pp")
        if not self.first:
            x = torch.empty(*x.shape, placed.model.shape.d_model, dtype=placed.dtype, device=x.device)
            dist.recv(x, group=group, group_src=self.stage - 1)
        x = placed(x, documents=batch.documents)
        if self.last:
            return x, batch.y
        dist.send(x, group=group, group_dst=self.stage + 1)
        return None

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        for parameter, group in self.shared:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            add_up([parameter.grad], group, self.device)
        return super().clip(model, max_norm)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Over all stages; what several of them hold counts in the first."""
        again = set() if self.first else {id(parameter.grad) for parameter, _ in self.shared}
        own = super().norm([gradient for gradient in gradients if id(gradient) not in again])
        total = own.to(self.device).double().square()
        dist.all_reduce(total, group=self.mesh.get_group("pp"))
        return total.sqrt().to(own.dtype)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        state = {name: whole(tensor).cpu() for name, tensor in model.state_dict().items()}
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(state if self.data_rank == 0 else {}, parts, group=self.control)
        return {name: tensor for part in parts or () for name, tensor in part.items()}
