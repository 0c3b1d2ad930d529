"""Shard a model for tensor parallelism: each process gets a part of the heads and of the hidden units.

Letters: B batch, T time, H query heads, G key heads, R rotated dims, N processes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from gptx.attention.base import Attention
from gptx.ffn.base import FFN
from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.model.gpt import GPT
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


class HeadParameterParallel(ParallelStyle):
    """Shards vectors of parameters, as many numbers for each head; the module returns those of the local heads."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def shard(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
            for name, parameter in list(module.named_parameters(recurse=False)):
                local = distribute_tensor(parameter, mesh, [Shard(0)], src_data_rank=self.src_data_rank)
                module.register_parameter(name, nn.Parameter(local))

        return distribute_module(module, device_mesh, shard, output_fn=lambda _, y, mesh: y.to_local())


class ReplicatedParallel(ParallelStyle):
    """Keeps the module on every rank. The gradient of its output is summed over all ranks, because every rank's heads
    use the output."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def sum_gradient(_: nn.Module, args: Any, y: Tensor) -> Tensor:
            replicated = DTensor.from_local(y, device_mesh, [Replicate()], run_check=False)
            return replicated.to_local(grad_placements=[Partial()])

        module.register_forward_hook(sum_gradient)
        return module


class LocalHeadsEncoding(PositionalEncoding):
    """An encoding for the heads of one rank, which counts its heads from 0.

    Args:
        full: the encoding for all heads.
        rank, ranks: which part of the heads is local, and the number of parts.
        n_head: H / N, the number of local heads.
    """

    def __init__(self, full: PositionalEncoding, rank: int, ranks: int, n_head: int) -> None:
        nn.Module.__init__(self)
        self.full, self.rank, self.ranks, self.first_head = full, rank, ranks, rank * n_head
        for name in ("logit_scale", "biased", "linear", "macs_per_pair", "relative", "max_length"):
            setattr(self, name, getattr(full, name))

    def _local(self, x: Tensor, dim: int) -> Tensor:
        return x.chunk(self.ranks, dim)[self.rank]

    @property
    def slopes(self) -> Tensor:
        """(H / N,) where the bias is linear."""
        slopes: Any = self.full.slopes
        return self._local(slopes, 0)

    def table(self, pos: Tensor) -> object:
        table = self.full.table(pos)
        if table is None:
            return None
        assert isinstance(table, tuple)
        return tuple(self._local(tensor, 2) if tensor.shape[2] > 1 else tensor for tensor in table)

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        return self.full.rotate(q, k, table)

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return self.full.bias(head + self.first_head, q_pos, k_pos)


class OwnDropoutKernel(Kernel):
    """Calls another kernel with random numbers that no other rank uses: heads with the same index on two ranks would
    otherwise drop the same weights, and the noise in the sum of all heads would be larger than in one process.

    They are seeded by a number from the stream that the ranks share, so that this stream stays the same on all ranks:
    dropout outside of the heads must drop the same activations everywhere.
    """

    def __init__(self, shape: ModelShape, inner: Kernel, rank: int, ranks: int) -> None:
        super().__init__(shape, inner.demands)
        self.inner, self.rank, self.ranks = inner, rank, ranks

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        return self.inner.mask(where, window, pos)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        call = self._with_own_numbers if self.dropout else self.inner
        y: Tensor = call(q, k, v, mask, score)
        return y

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _with_own_numbers(self, *args: Any) -> Tensor:
        device = args[0].device
        seed = int(torch.randint(2**32, (self.ranks,), device="cpu")[self.rank])  # torch uses 32 bits only
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            y: Tensor = self.inner(*args)
        return y


def shard_model(model: GPT, mesh: DeviceMesh) -> list[str]:
    """Shard a model in place. Every process has built the same model, so nothing is sent.

    Returns:
        The names of weights that are replicated but used by local heads only: their gradients have to be summed.
    """
    partial = [name for name, _ in model.pos.named_parameters(prefix="pos")] if not model.pos.embeds else []
    for name, module in model.named_modules():
        if isinstance(module, Attention | FFN):
            table = module.tp or {}
            cut = {child: how for child, how in table.items() if how != "shared"}
            styles = {child: _style(how, module.get_submodule(child)) for child, how in cut.items()}
            parallelize_module(module, mesh, styles, src_data_rank=None)  # None: no broadcast
            shared = [child for child, how in table.items() if how == "shared"]
            keys = (key for key, _ in module.named_parameters())
            partial += [f"{name}.{key}" for key in keys if any(f"{key}.".startswith(f"{child}.") for child in shared)]
    _use_local_heads(model, mesh.get_local_rank(), mesh.size())
    if model.shape.dropout:
        model.use_kernel(OwnDropoutKernel(model.shape, model.kernel, mesh.get_local_rank(), mesh.size()))
    return partial


def take_local_shards(model: GPT, ranks: int) -> None:
    """Replace the parameters of a model on the meta device by the shards of one of ``ranks`` processes: the effect of
    `shard_model` on sizes, without a process group."""
    for module in model.modules():
        if isinstance(module, Attention | FFN):
            for child, how in (module.tp or {}).items():
                if how in ("col", "row"):
                    _take_local_shard(module.get_submodule(child), how, ranks)
    _use_local_heads(model, 0, ranks)


def _take_local_shard(child: nn.Module, how: str, ranks: int) -> None:
    for name, parameter in list(child.named_parameters()):
        if how == "col" or parameter.dim() == 2:  # the bias of a row-wise layer is replicated
            local = parameter.chunk(ranks, 0 if how == "col" else 1)[0].clone()
            child.register_parameter(name, nn.Parameter(local))


def _style(how: str, child: nn.Module) -> ParallelStyle:
    """Return how torch shards a child, from its entry in a `tp` table."""
    if how == "col":
        return ColwiseParallel() if isinstance(child, nn.Linear) else HeadParameterParallel()
    return RowwiseParallel() if how == "row" else ReplicatedParallel()


def _use_local_heads(model: GPT, rank: int, ranks: int) -> None:
    """Set up kernels and encodings for the local heads."""
    n_head = model.shape.n_head // ranks
    model.keep_heads(n_head, lambda pos: LocalHeadsEncoding(pos, rank, ranks, n_head))
