"""Context parallelism: several ranks share each row, for rows that are too long for one (Llama 3, Grattafiori et al.
2024, section 3.3.2). Weights are sharded over all ranks, as in fsdp.

Each rank computes the queries of its own tokens and gathers the keys and values of the full row, whatever the window: a
window saves computation (see `RowShardKernel`), not communication. The gathered tensors are those that a KV cache would
store: with gqa and mqa the few key heads, with mla the latents, from which each rank computes all keys and values.

Letters: B batch, T time, n ranks that share a row.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from gptx.errors import ConfigError, option
from gptx.geometry.attention_view import Keep
from gptx.geometry.visibility import Where
from gptx.model.gpt import GPT
from gptx.model.kv_cache import Context
from gptx.strategy.base import Batch
from gptx.strategy.cp_sharding import RowShard, RowShardKernel, merge_shards, split_rows
from gptx.strategy.distributed import group_size
from gptx.strategy.footprint import Footprint
from gptx.strategy.fsdp import FSDP
from gptx.window.base import Window

if TYPE_CHECKING:
    from gptx.strategy.batch_plan import BatchPlan

ID = "strategy.cp"
REVISION = 1

COLLECTIVES = torch.ops._c10d_functional  # supported by torch.compile, and with the same names in all versions


class CP(FSDP):
    """The loss of a rank is the mean over its T/n tokens of its rows. The mean of these losses is the loss of the
    batch, and `fully_shard` averages the gradients in the same way.

    Args:
        cp: ranks that share a row; 0: all of them.
    """

    row_shard: RowShard
    group: str

    def __init__(self, *, cp: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.cp = cp

    def mesh_shape(self, processes: int) -> dict[str, int]:
        size = group_size("cp", self.cp, processes)
        return {"data": processes // size, "cp": size}

    def shard_mesh(self) -> DeviceMesh:
        return init_device_mesh(self.device.type, (self.size,))

    def weight_shards(self, processes: int) -> int:
        return processes

    def footprint(self, model: GPT, plan: "BatchPlan", processes: int) -> Footprint:
        return replace(super().footprint(model, plan, processes), row_fraction=1 / self.mesh_shape(processes)["cp"])

    def check(self, model: GPT, processes: int, plan: "BatchPlan") -> None:
        super().check(model, processes, plan)
        length, chunks = model.shape.context, 2 * self.mesh_shape(processes)["cp"]
        if length % chunks:
            raise ConfigError(
                f"strategy.cp={chunks // 2} splits rows into {chunks} chunks, and model.context={length} is not a "
                f"multiple of {chunks}: use model.context={chunks * max(1, round(length / chunks))}"
            )
        if any(ffn.needs_full_rows for ffn in model.ffns):
            raise ConfigError(
                f"ffn={option(model.ffns[0])} limits or balances its experts over full rows, and strategy=cp splits "
                "rows: use ffn.capacity=0 ffn.balance=0"
            )
        if not model.kernel.supports_partial_rows:
            raise ConfigError(
                f"kernel={option(model.kernel)} computes full rows only, and strategy=cp splits rows: use kernel=auto"
            )

    def place(self, model: GPT) -> nn.Module:
        self.row_shard = RowShard(self.mesh.get_local_rank("cp"), self.mesh["cp"].size())
        self.group = self.mesh.get_group("cp").group_name
        model.use_kernel(RowShardKernel(model.shape, model.kernel, self.row_shard))
        return super().place(model)

    def shard(self, batch: Batch) -> tuple[Tensor, Tensor, Context, Tensor | None]:
        length = batch.x.shape[1]
        context = ShardedRows(length - length // self.row_shard.count, self.row_shard, self.group)
        return self.row_shard.take(batch.x), self.row_shard.take(batch.y), context, batch.documents


@dataclass(frozen=True)
class ShardedRows:
    """The context of a rank's tokens: keys and values that other ranks compute for the same rows.

    It stores nothing, so that activation checkpointing can recompute a block in the backward.

    Attributes:
        length: tokens of a row that other ranks compute.
        shard: this rank's part of each row.
        group: the name of the process group that shares the rows.
    """

    length: int
    shard: RowShard
    group: str

    def where(self, windows: Collection[Window], tokens: Tensor, documents: Tensor | None) -> dict[Window, Where]:
        """``documents`` (B, T) are those of the full rows."""
        rows = (
            Where.rows(tokens.shape[1] + self.length, tokens.device) if documents is None else Where.packed(documents)
        )
        q_doc = None if rows.q_doc is None else self.shard.take(rows.q_doc)
        return dict.fromkeys(windows, Where(self.shard.take(rows.q_pos), rows.k_pos, q_doc, rows.k_doc))

    def keeper(self, layer: int, window: Window) -> Keep:
        return self._gather

    def _gather(self, *local: Tensor) -> tuple[Tensor, ...]:
        full: tuple[Tensor, ...] = GatherRows.apply(self.group, self.shard.count, *local)  # type: ignore[no-untyped-call]
        return full

    def advance(self, count: int) -> None:
        pass


class GatherRows(torch.autograd.Function):
    """(B, T/n, ...) on each rank -> (B, T, ...) in the order of time; in the backward, gradients are summed and
    returned to the rank that computed the token.

    One function gathers all tensors of a layer, so that their collectives run in the same order on every rank, even if
    ranks choose different kernels.
    """

    @staticmethod
    def forward(ctx: Any, group: str, count: int, *local: Tensor) -> tuple[Tensor, ...]:
        ctx.group, ctx.count = group, count
        return tuple(gather_rows(tensor, group, count) for tensor in local)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(reduce_scatter_rows(gradient, ctx.group, ctx.count) for gradient in gradients)


def gather_rows(tensor: Tensor, group: str, count: int) -> Tensor:
    """(B, T/n, ...) on each rank -> (B, T, ...)."""
    shards = COLLECTIVES.wait_tensor(COLLECTIVES.all_gather_into_tensor(tensor.contiguous(), count, group))
    return merge_shards(shards.unflatten(0, (count, -1)))


def reduce_scatter_rows(gradient: Tensor, group: str, count: int) -> Tensor:
    """(B, T, ...) on each rank -> (B, T/n, ...), this rank's part of the sum."""
    shards = split_rows(gradient, count).flatten(0, 1)
    local: Tensor = COLLECTIVES.wait_tensor(COLLECTIVES.reduce_scatter_tensor(shards, "sum", count, group))
    return local
