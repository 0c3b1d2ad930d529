"""Pipeline parallelism: the layers are split into stages, and each stage alternates one forward and one backward of the
chunks of a batch (1F1B: PipeDream-Flush, Narayanan et al. 2021). Uses torch's `distributed.pipelining`.

Letters: B batch, T time, D model width, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from gptx.errors import ConfigError, option
from gptx.geometry.side_losses import SideLosses
from gptx.model.gpt import GPT
from gptx.model.kv_cache import NoContext
from gptx.strategy.base import Autocast, Batch
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.distributed import all_reduce_gradients, full_tensor, group_size
from gptx.strategy.footprint import Footprint
from gptx.strategy.fsdp import DTYPES, FSDP
from gptx.strategy.tp import has_shared_weights


class ModelStage(nn.Module):
    """The layers of a model that this rank computes: takes the output of the previous stage, returns the input of the
    next one.

    Args:
        dtype: dtype of the residual stream between two stages.
    """

    autocast: Autocast = nullcontext

    def __init__(self, model: GPT, first: bool, last: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.first, self.last, self.dtype = model, first, last, dtype

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.model.blocks[layer] for layer in self.model.layers]

    def forward(self, x: Tensor, documents: Tensor | None = None, targets: Tensor | None = None) -> Tensor:
        """Tokens (B, T) or the residual stream (B, T, D) -> the residual stream (B, T, D), or the result of
        `GPT.output`: logits (B, T, V) or the loss."""
        model, context, side = self.model, NoContext(), SideLosses()
        with self.autocast():
            where = context.where(set(model.windows), x, documents)
            x = model.embed_tokens(x, where) if self.first else x
            x = model.run_layers(x, where, context, side)
            return model.output(x, targets, side) if self.last else x.to(self.dtype)


ID = "strategy.pp"
REVISION = 1


class PP(FSDP):
    """Splits the layers into stages, which compute chunks of a micro-batch in turn.

    Args:
        pp: stages; 0: one for each process. With fewer stages, each one is sharded over several processes as in fsdp.
        chunks: the number of chunks that a micro-batch is split into, at least one for each stage; 0: about four for
            each.
    """

    pipeline: Schedule1F1B | None = None  # created with the first batch, because it needs the number of rows
    chunk_weight: float = 1.0  # the factor on the loss of a chunk in the gradient
    end_stages: Any = None  # a process group of the first and the last stage

    def __init__(self, *, pp: int, chunks: int, **rest: Any) -> None:
        super().__init__(**rest)
        if chunks < 0:
            raise ConfigError(f"strategy.chunks={chunks}: expected 0 (about four for each stage) or more")
        self.pp, self.chunks, self.dtype = pp, chunks, DTYPES[rest["param_dtype"]]

    def mesh_shape(self, processes: int) -> dict[str, int]:
        stages = group_size("pp", self.pp, processes)
        return {"pp": stages, "data": processes // stages}

    def check(self, model: GPT, processes: int, plan: BatchPlan) -> None:
        if self._is_sharded(self.batch_slices(processes)):
            super().check(model, processes, plan)
        self._check_layers(model.shape.n_layer, processes)
        self._check_chunks(processes, plan)
        self._check_sharding_keys(processes)
        if has_shared_weights(model.pos):
            raise ConfigError(
                f"pos={option(model.pos)} has weights for the embedding and for the heads, which strategy=pp puts into "
                "different stages: use strategy=fsdp"
            )
        if model.ffns[0].has_side_losses:
            raise ConfigError(
                f"strategy=pp computes the loss in its last stage, and ffn={option(model.ffns[0])} has losses and "
                "metrics in all stages: use strategy=fsdp"
            )

    def _check_layers(self, layers: int, processes: int) -> None:
        stages = self.mesh_shape(processes)["pp"]
        if layers % stages:
            possible = [n for n in range(2, stages) if layers % n == 0 and processes % n == 0]
            fewer = f"strategy.pp={possible[-1]} or " if possible else ""
            raise ConfigError(
                f"model.n_layer={layers} cannot be split into {stages} stages (strategy.pp={self.pp}): use "
                f"{fewer}model.n_layer={stages * max(1, round(layers / stages))}"
            )

    def _check_chunks(self, processes: int, plan: BatchPlan) -> None:
        stages, data = self.mesh_shape(processes).values()
        rows = plan.micro_batch
        if rows < stages:
            larger = [n for n in range(stages, plan.rank_batch + 1) if plan.rank_batch % n == 0]
            use = f"trainer.micro_batch={larger[0]}" if larger else f"trainer.batch_size={stages * data}"
            raise ConfigError(
                f"micro-batches of {rows} rows are too small for the {stages} stages of strategy=pp, which need at "
                f"least one row each: use {use}"
            )
        if self.chunks not in (0, nearest := self.chunks_of(rows, stages)):
            raise ConfigError(
                f"strategy.chunks={self.chunks}: expected a divisor of {rows} (rows of a micro-batch) that is at "
                f"least {stages} (stages), such as strategy.chunks={nearest}"
            )

    def _check_sharding_keys(self, processes: int) -> None:
        """Keys that control sharding would be ignored if no stage is sharded."""
        given = {"reduce_dtype": self.precision.reduce_dtype != torch.float32, "reshard": not self.reshard}
        given["prefetch"] = self.prefetch > 0
        unused = [name for name, set_ in given.items() if set_]
        if self.mesh_shape(processes)["data"] == 1 and unused:
            raise ConfigError(
                f"strategy.{unused[0]} applies to stages that are sharded over several processes, and here each stage "
                "is one process: leave it out, or use fewer stages (strategy.pp)"
            )

    def _is_sharded(self, processes: int) -> bool:
        """Whether `fully_shard` handles the weights of a stage of so many processes."""
        return processes > 1 or self.offload or self.dtype != torch.float32

    def chunks_of(self, rows: int, stages: int) -> int:
        """Return the number of chunks for a micro-batch of so many rows: the possible number that is nearest to the
        wanted one."""
        possible = [n for n in range(stages, rows + 1) if rows % n == 0]
        return min(possible, key=lambda n: abs(n - (self.chunks or 4 * stages)))

    def footprint(self, model: GPT, plan: BatchPlan, processes: int) -> Footprint:
        stages = self.mesh_shape(processes)["pp"]
        if stages == 1:
            return super().footprint(model, plan, processes)
        self._check_chunks(processes, plan)
        model.keep_stage(range(model.shape.n_layer // stages), first=True, last=True)
        chunk = plan.micro_batch // self.chunks_of(plan.micro_batch, stages)
        chunks = replace(plan, rank_batch=plan.micro_batch, micro_batch=chunk)
        return replace(super().footprint(model, chunks, processes), rows=chunk * stages)  # as many chunks in flight

    def __enter__(self) -> "PP":
        super().__enter__()
        self.stages, self.stage = self.mesh["pp"].size(), self.mesh.get_local_rank("pp")
        self.first, self.last = self.stage == 0, self.stage == self.stages - 1
        self.is_reporting_rank, self.loss_ranks = self.last, self.data_size
        if self.stages > 1:
            pairs = [[ranks[0], ranks[-1]] for ranks in self.mesh.mesh.T.tolist()]
            timeout = timedelta(seconds=self.timeout)
            self.end_stages, _ = dist.new_subgroups_by_enumeration(pairs, timeout=timeout)
        return self

    def place(self, model: GPT) -> nn.Module:
        """Replace the parts of other stages by modules without weights, so that names in the state dict stay equal."""
        per_stage, tied, embeds = model.shape.n_layer // self.stages, model.head is None, model.pos.embeds
        layers = range(self.stage * per_stage, (self.stage + 1) * per_stage)
        model.keep_stage(layers, first=self.first, last=self.last)
        stage = ModelStage(model, self.first, self.last, self.dtype).to(self.device)
        if self._is_sharded(self.data_size):
            self.shard_modules(stage, stage.blocks)
        self.shared: list[tuple[Tensor, Any]] = []  # weights that several stages hold, and the group of these stages
        if not embeds:
            self.shared += [(parameter, self.mesh.get_group("pp")) for parameter in model.pos.parameters()]
        if tied and self.stages > 1 and (self.first or self.last):
            self.shared.append((model.embed.weight, self.end_stages))
        self.pipeline = None
        return stage

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()  # the schedule reduces gradients after its last chunk

    def backward(self, placed: nn.Module, batch: Batch, weight: float, autocast: Autocast, side: SideLosses) -> Tensor:
        assert isinstance(placed, ModelStage)
        placed.autocast = autocast
        chunks = self.chunks_of(len(batch.x), self.stages)
        self.pipeline, self.chunk_weight = self.pipeline or self._pipeline(placed, chunks), weight / chunks
        inputs: dict[str, Any] = {} if batch.documents is None else {"documents": batch.documents}
        losses: list[Tensor] = []
        if self.last:
            inputs["targets"] = batch.y
        target = batch.y if self.last else None  # required by the schedule, although the stage has the targets already
        tokens = [batch.x] if self.first else []
        self.pipeline.step(*tokens, target=target, losses=losses, return_outputs=False, **inputs)
        return torch.stack(losses).detach().sum() if losses else torch.zeros((), device=self.device)

    def _pipeline(self, placed: ModelStage, chunks: int) -> Schedule1F1B:
        group = self.mesh.get_group("pp")
        stage = PipelineStage(placed, self.stage, self.stages, self.device, group=group)
        return Schedule1F1B(stage, chunks, loss_fn=lambda loss, _: loss * self.chunk_weight, scale_grads=False)

    def predict(self, placed: nn.Module, batch: Batch, autocast: Autocast) -> tuple[Tensor, Tensor] | None:
        """Pass the batch from stage to stage without chunks: while one batch is in the second stage, the first stage
        computes the next batch."""
        assert isinstance(placed, ModelStage)
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
            all_reduce_gradients([parameter.grad], group, self.device)
        return super().clip(model, max_norm)

    def gradient_norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm over all stages; a weight that several stages hold counts once, in the first stage."""
        counted_elsewhere = set() if self.first else {id(parameter.grad) for parameter, _ in self.shared}
        local = super().gradient_norm([gradient for gradient in gradients if id(gradient) not in counted_elsewhere])
        total = local.to(self.device).double().square()
        dist.all_reduce(total, group=self.mesh.get_group("pp"))
        return total.sqrt().to(local.dtype)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        local = {name: full_tensor(tensor).cpu() for name, tensor in model.state_dict().items()}
        stages: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(local if self.data_rank == 0 else {}, stages, group=self.cpu_group)
        return {name: tensor for state in stages or () for name, tensor in state.items()}
