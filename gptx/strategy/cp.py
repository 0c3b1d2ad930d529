"""Context parallelism: processes share each row's tokens, for rows too long for one (Llama 3, Grattafiori et al. 2024,
section 3.3.2). Weights are cut over all processes, as in fsdp.

Each process computes queries for its own tokens and gathers everybody's keys and values, whole rows whatever the
window is: a window saves what is computed (see `zigzag.Pieces`), not what is sent. What is gathered is what an
attention would keep in a cache: with gqa and mqa few heads, with mla the latents, of which each process then makes the
whole row's keys and values.

Letters: B batch, T time, n processes that share a row.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from gptx.errors import ConfigError, option
from gptx.geometry.view import Keep
from gptx.geometry.visibility import Where
from gptx.model.cache import Context
from gptx.model.gpt import GPT
from gptx.strategy.base import Batch
from gptx.strategy.distributed import degree
from gptx.strategy.fsdp import FSDP
from gptx.strategy.zigzag import Cut, Pieces, deal, join
from gptx.window.base import Window

if TYPE_CHECKING:
    from gptx.strategy.batch_plan import BatchPlan


COLLECTIVE = torch.ops._c10d_functional  # those that torch.compile knows, and that no version has renamed


ID = "strategy.cp"
REVISION = 1


class CP(FSDP):
    """Every process's loss is the mean over its T/n tokens of its rows; the mean of all is the loss, and `fully_shard`
    averages the gradients in the same way.

    Args:
        cp: processes that share a row; 0: all.
    """

    cut: Cut
    group: str

    def __init__(self, *, cp: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.cp = cp

    def shape(self, processes: int) -> dict[str, int]:
        sharing = degree("cp", self.cp, processes)
        return {"data": processes // sharing, "cp": sharing}

    def shards(self) -> DeviceMesh:
        return init_device_mesh(self.device.type, (self.size,))

    def check(self, model: GPT, processes: int, plan: "BatchPlan") -> None:
        length, pieces = model.shape.context, 2 * self.shape(processes)["cp"]
        if length % pieces:
            raise ConfigError(
                f"strategy.cp={pieces // 2} cuts rows in {pieces} pieces, which model.context={length} is not a "
                f"multiple of: model.context={pieces * max(1, round(length / pieces))} would do"
            )
        if any(ffn.needs_full_rows for ffn in model.ffns):
            raise ConfigError(
                f"ffn={option(model.ffns[0])} limits or balances its experts over whole rows, of which strategy=cp "
                "gives each process a part: ffn.capacity=0 ffn.balance=0 would do"
            )
        if not model.kernel.supports_partial_rows:
            raise ConfigError(
                f"kernel={option(model.kernel)} computes whole rows, strategy=cp parts of them: use kernel=auto"
            )

    def place(self, model: GPT) -> nn.Module:
        self.cut = Cut(self.mesh.get_local_rank("cp"), self.mesh["cp"].size())
        self.group = self.mesh.get_group("cp").group_name
        model.use_kernel(Pieces(model.shape, model.kernel, self.cut))
        return super().place(model)

    def own(self, batch: Batch) -> tuple[Tensor, Tensor, Context, Tensor | None]:
        length = batch.x.shape[1]
        row = Row(length - length // self.cut.count, self.cut, self.group)
        return self.cut.take(batch.x), self.cut.take(batch.y), row, batch.documents


@dataclass(frozen=True)
class Row:
    """The memory of tokens that are a part of their row: the others' keys and values, from where they are computed.

    Nothing is held, so that a block can be computed again in the backward.

    Attributes:
        length: tokens of the row that are computed elsewhere.
        group: the name of the processes that share the row.
    """

    length: int
    cut: Cut
    group: str

    def where(self, windows: Collection[Window], tokens: Tensor, documents: Tensor | None) -> dict[Window, Where]:
        """``documents`` (B, T) are those of the whole row."""
        row = Where.rows(tokens.shape[1] + self.length, tokens.device) if documents is None else Where.packed(documents)
        own = None if row.q_doc is None else self.cut.take(row.q_doc)
        return dict.fromkeys(windows, Where(self.cut.take(row.q_pos), row.k_pos, own, row.k_doc))

    def keeper(self, layer: int, window: Window) -> Keep:
        return self.keep

    def keep(self, *present: Tensor) -> tuple[Tensor, ...]:
        gathered: tuple[Tensor, ...] = Gather.apply(self.group, self.cut.count, *present)  # type: ignore[no-untyped-call]
        return gathered

    def advance(self, count: int) -> None:
        pass


class Gather(torch.autograd.Function):
    """(B, T/n, ...) each -> (B, T, ...), in the order of time; gradients are added up where the tokens are.

    One function for all tensors of a layer: so their gradients meet in the same order everywhere, whatever kernel
    each process has chosen.
    """

    @staticmethod
    def forward(ctx: Any, group: str, count: int, *present: Tensor) -> tuple[Tensor, ...]:
        ctx.group, ctx.count = group, count
        return tuple(gather(tensor, group, count) for tensor in present)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(scatter(gradient, ctx.group, ctx.count) for gradient in gradients)


def gather(tensor: Tensor, group: str, count: int) -> Tensor:
    """(B, T/n, ...) -> (B, T, ...)."""
    parts = COLLECTIVE.wait_tensor(COLLECTIVE.all_gather_into_tensor(tensor.contiguous(), count, group))
    return join(parts.unflatten(0, (count, -1)))


def scatter(gradient: Tensor, group: str, count: int) -> Tensor:
    """(B, T, ...) in each process -> (B, T/n, ...), of the sum."""
    parts = deal(gradient, count).flatten(0, 1)
    own: Tensor = COLLECTIVE.wait_tensor(COLLECTIVE.reduce_scatter_tensor(parts, "sum", count, group))
    return own
