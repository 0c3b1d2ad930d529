"""The contract of a strategy. This base class trains in one process; a variant overrides the methods that differ.

Letters: B batch, T time, V vocabulary.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.geometry.side_losses import SideLosses
from gptx.hardware.device import pick
from gptx.strategy.footprint import Footprint, parameter_bytes

if TYPE_CHECKING:
    from gptx.model.gpt import GPT
    from gptx.model.kv_cache import Context
    from gptx.strategy.batch_plan import BatchPlan

Autocast = Callable[[], AbstractContextManager[Any]]  # a new context of the run's compute dtype at each call


@dataclass(frozen=True, eq=False)
class Batch:
    """A micro-batch of one rank.

    Attributes:
        x, y: (B, T) tokens and the tokens that follow them.
        documents: (B, T) ids of the documents packed into each row; None: each row is one document.
    """

    x: Tensor
    y: Tensor
    documents: Tensor | None = None


class Strategy:
    """How a run is split over processes. A context manager: the process group and the device are set up inside it.

    Attributes:
        in_process: whether the run trains in the process of the command; otherwise the command starts workers.
        shards_weights: whether each rank holds a part of the weights and gathers the rest when it needs them.
        restarts: how often the command restarts the workers after one has failed.
        rank, size: the index of this process and the number of processes; rank 0 is the main process.
        data_rank, data_size: which slice of the global batch's rows this process computes, and the number of slices.
        loss_ranks: the number of ranks that report a loss, each over equally many tokens; `sum` adds these losses.
        dropout_stream: seeds dropout; ranks that compute the same activations have the same number.
        cpu_group: a process group of all ranks for tensors on the CPU; None: there is one process.
        checkpoint_group: a second group of all ranks, for writing checkpoints while training uses the first.
        nproc: the key of the YAML file; set by the base constructor.
        device: the device on which the model is placed; set by the base constructor, then by `open`.
    """

    nproc: int
    device: torch.device

    in_process: bool = True
    shards_weights: bool = False
    restarts: int = 0
    rank: int = 0
    size: int = 1
    data_rank: int = 0
    data_size: int = 1
    loss_ranks: int = 1
    dropout_stream: int = 0
    cpu_group: Any = None
    checkpoint_group: Any = None

    def __init__(self, *, nproc: int) -> None:
        self.nproc = nproc
        self.device = torch.device("cpu")

    def processes(self, device: str | torch.device, launched: int, gpus: int | None = None) -> int:
        """Return the number of processes of the run.

        Args:
            launched: the number of processes that torchrun has started; 0: without torchrun, the command starts them.
            gpus: the number of GPUs of the node that the run is for; None: use the number on this machine.

        Raises:
            ConfigError: the strategy cannot run with this number of processes.
        """
        if launched > 1:
            raise ConfigError(f"this strategy runs in one process, torchrun started {launched}: use strategy=ddp")
        return 1

    def batch_slices(self, processes: int) -> int:
        """Return the number of slices into which the rows of the global batch are split.

        Raises:
            ConfigError: this number of processes cannot be arranged as the strategy's options require.
        """
        return 1

    def check(self, model: "GPT", processes: int, plan: "BatchPlan") -> None:
        """Check a model on the meta device and a batch plan before any process is started.

        Raises:
            ConfigError: the strategy cannot split this model or this batch.
        """

    def footprint(self, model: "GPT", plan: "BatchPlan", processes: int) -> Footprint:
        """Return the memory needs of one rank. It also removes from ``model``, which is on the meta device, the part
        that a rank does not compute."""
        weights = parameter_bytes(model)
        accumulated = weights if plan.micro_batches > 1 else 0
        return Footprint(plan.micro_batch, row_fraction=1.0, weights=weights, gradients=accumulated, gathered=0)

    def open(self, device: str) -> "Strategy":
        """Choose the device before the ``with`` block; ``device`` is auto, cpu, cuda or mps."""
        self.device = pick(device)
        return self

    def __enter__(self) -> "Strategy":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def place(self, model: "GPT") -> nn.Module:
        """Move the model to the device, and shard or wrap it as `backward` and `predict` need it."""
        return model.to(self.device)

    def compile(self, placed: nn.Module) -> nn.Module:
        """Compile a placed model."""
        return torch.compile(placed)  # type: ignore[return-value]

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        """A context for one micro-batch. Ranks need to exchange gradients only in the last one of a step."""
        return contextlib.nullcontext()

    def shard(self, batch: Batch) -> tuple[Tensor, Tensor, "Context | None", Tensor | None]:
        """Return the part of a batch that this rank computes, as the arguments of `GPT.forward`: tokens, targets,
        context, documents."""
        return batch.x, batch.y, None, batch.documents

    def backward(self, placed: nn.Module, batch: Batch, weight: float, autocast: Autocast, side: SideLosses) -> Tensor:
        """Compute the mean loss of the batch, add ``weight`` times its gradient to the gradients, and return ``weight``
        times the loss. ``side`` collects the side losses and metrics of the layers."""
        with autocast():
            loss: Tensor = placed(*self.shard(batch), side) * weight
        loss.backward()
        return loss.detach()

    def predict(self, placed: nn.Module, batch: Batch, autocast: Autocast) -> tuple[Tensor, Tensor] | None:
        """Return logits (B, T, V) and their targets (B, T) for the tokens that this rank reports: T may be a part of
        the row. None: this rank reports none."""
        x, y, context, documents = self.shard(batch)
        with autocast():
            return placed(x, None, context, documents), y

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of ``x`` over the ranks that report a loss, equal on all ranks."""
        return x

    def max(self, number: int) -> int:
        """Return the maximum of ``number`` over all ranks, equal on all ranks. It does not wait for the device."""
        return number

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        """Clip the global norm of the gradients to ``max_norm`` (0: no clipping) and return the norm before clipping,
        on the device."""
        return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or float("inf"))

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the full state dict of the model on rank 0 and an empty one elsewhere. All ranks have to call it."""
        return model.state_dict()
