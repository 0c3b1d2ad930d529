"""What tensor parallelism makes of a model: each process has some of the heads and of the hidden units.

Letters: B batch, T time, H query heads, G key heads, R rotated dims, N processes.
"""

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from gptx.attention.base import Attention
from gptx.ffn.base import FFN
from gptx.model.gpt import GPT
from gptx.pos.base import PositionalEncoding


class PerHead(ParallelStyle):
    """Parameters (H,), of which a process has and returns its own."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def cut(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
            for name, parameter in list(module.named_parameters(recurse=False)):
                own = distribute_tensor(parameter, mesh, [Shard(0)], src_data_rank=self.src_data_rank)
                module.register_parameter(name, nn.Parameter(own))

        return distribute_module(module, device_mesh, cut, output_fn=lambda _, y, mesh: y.to_local())


class Whole(ParallelStyle):
    """Computed alike everywhere; the gradient of what it gives comes from all heads, those elsewhere too."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def entrance(_: nn.Module, given: Any, y: Tensor) -> Tensor:
            spread = DTensor.from_local(y, device_mesh, [Replicate()], run_check=False)
            return spread.to_local(grad_placements=[Partial()])

        module.register_forward_hook(entrance)
        return module


class Heads(PositionalEncoding):
    """An encoding as one process's heads see it, which are counted from 0 in each.

    Args:
        rank, ranks: which part of the heads is here, of how many.
        n_head: H / N.
    """

    def __init__(self, whole: PositionalEncoding, rank: int, ranks: int, n_head: int) -> None:
        nn.Module.__init__(self)
        self.whole, self.rank, self.ranks, self.first = whole, rank, ranks, rank * n_head
        for name in ("logit_scale", "biased", "linear", "macs_per_pair", "relative", "max_length"):
            setattr(self, name, getattr(whole, name))

    def own(self, x: Tensor, dim: int) -> Tensor:
        return x.chunk(self.ranks, dim)[self.rank]

    @property
    def slopes(self) -> Tensor:
        """(H / N,) where the bias is linear."""
        found: Any = self.whole.slopes
        return self.own(found, 0)

    def table(self, pos: Tensor) -> object:
        table = self.whole.table(pos)
        if table is None:
            return None
        assert isinstance(table, tuple)
        return tuple(self.own(one, 2) if one.shape[2] > 1 else one for one in table)

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        return self.whole.rotate(q, k, table)

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return self.whole.bias(head + self.first, q_pos, k_pos)


def cut(model: GPT, mesh: DeviceMesh) -> list[str]:
    """Leave one process's part of a model, which every process has made alike.

    Returns:
        Names of weights that are here whole and serve this process's heads: their gradients are parts of a sum.
    """
    parts = [name for name, _ in model.pos.named_parameters(prefix="pos")] if serves_heads(model.pos) else []
    for name, module in model.named_modules():
        if isinstance(module, Attention | FFN):
            plan = {child: style(how, getattr(module, child)) for child, how in module.tp.items() if how != "shared"}
            parallelize_module(module, mesh, plan, src_data_rank=None)  # None: nothing is sent
            weights = ((key, module.tp.get(key.partition(".")[0])) for key, _ in module.named_parameters())
            parts += [f"{name}.{key}" for key, how in weights if how == "shared"]
    show_own_heads(model, mesh)
    return parts


def style(how: str, child: nn.Module) -> ParallelStyle:
    """What a word of the table means for a child."""
    if how == "col":
        return ColwiseParallel() if isinstance(child, nn.Linear) else PerHead()
    return RowwiseParallel() if how == "row" else Whole()


def serves_heads(pos: PositionalEncoding) -> bool:
    """Whether an encoding's weights are used head by head, and not in the residual stream."""
    return not pos.embeds


def show_own_heads(model: GPT, mesh: DeviceMesh) -> None:
    """To the kernels, which ask for biases by the head, and to the encodings. That attention weights are dropped at
    the same places in each process is no harm: they are other heads'."""
    rank, ranks = mesh.get_local_rank(), mesh.size()
    n_head = model.shape.n_head // ranks
    model.keep_heads(n_head, lambda pos: Heads(pos, rank, ranks, n_head))
