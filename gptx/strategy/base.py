"""The contract of a strategy. This base is one process that holds everything; a variant says what it does otherwise.

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
from gptx.hardware.device import pick

if TYPE_CHECKING:
    from gptx.model.cache import Context
    from gptx.model.gpt import GPT
    from gptx.strategy.batch_plan import BatchPlan

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Attributes:
    x, y: (B, T) tokens and the ones that follow them.
    documents: (B, T) ids of the documents that are packed into the rows; None: each row is one.
    """

    x: Tensor
    y: Tensor
    documents: Tensor | None = None


class Strategy:
    """A context manager: inside it the process group and the device stand.

    Attributes:
        in_process: the run is the command's own process; else the command starts workers.
        restarts: how often the command starts lost workers again.
        rank, size: which of how many processes this is; the first one keeps the books.
        data_rank, data_size: which slice of the global batch's rows is this process's, of how many.
        voices: how many processes have a loss of their own, each of as many tokens: what `sum` adds up.
        stream: names the random numbers of dropout: what several processes compute alike draws alike.
        control: a group of all processes for what lies on the CPU; None: there is only one.
        saving: another one, for checkpoints alone: they are written while the others go on talking.
        frugal: memory counts more than the time it takes to get it.
        device: where the model lives.
    """

    in_process: bool = True
    frugal: bool = False
    restarts: int = 0
    rank: int = 0
    size: int = 1
    data_rank: int = 0
    data_size: int = 1
    voices: int = 1
    stream: int = 0
    control: Any = None
    saving: Any = None

    def __init__(self, *, nproc: int) -> None:
        self.nproc = nproc
        self.device = torch.device("cpu")

    def processes(self, device: str | torch.device, launched: int, gpus: int | None = None) -> int:
        """How many processes the run has: ``launched`` where torchrun has started them (else 0), or how many the
        command is to start; ``gpus``: a node's, where that is not this machine.

        Raises:
            ConfigError: not with so many.
        """
        if launched > 1:
            raise ConfigError(f"this strategy is one process, torchrun started {launched}: use strategy=ddp")
        return 1

    def rows(self, processes: int) -> int:
        """How many slices the rows of a batch are cut into.

        Raises:
            ConfigError: the processes cannot be arranged as the strategy's options want it.
        """
        return 1

    def check(self, model: "GPT", processes: int, plan: "BatchPlan") -> None:
        """Asked before any process is started, with a model on the meta device.

        Raises:
            ConfigError: this model or batch cannot be spread so.
        """

    def open(self, device: str) -> "Strategy":
        """Choose the device before ``with``; ``device`` is auto, cpu, cuda or mps."""
        self.device = pick(device)
        return self

    def __enter__(self) -> "Strategy":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def place(self, model: "GPT") -> nn.Module:
        """The model on its device, cut or wrapped so that `backward` and `predict` do what the strategy needs."""
        return model.to(self.device)

    def compile(self, placed: nn.Module) -> nn.Module:
        """What was placed, compiled."""
        return torch.compile(placed)  # type: ignore[return-value]

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        """Round one micro-batch: gradients need to meet only in the last."""
        return contextlib.nullcontext()

    def own(self, batch: Batch) -> tuple[Tensor, Tensor, "Context | None", Tensor | None]:
        """What of a batch this process computes, as `GPT.forward` takes it: tokens, targets, memory, documents."""
        return batch.x, batch.y, None, batch.documents

    def backward(self, placed: nn.Module, batch: Batch, share: float, autocast: Autocast) -> Tensor:
        """Add ``share`` times the gradient of the batch's mean loss to the gradients; returns that part of the loss."""
        with autocast():
            loss: Tensor = placed(*self.own(batch)) * share
        loss.backward()
        return loss.detach()

    def predict(self, placed: nn.Module, batch: Batch, autocast: Autocast) -> tuple[Tensor, Tensor] | None:
        """Logits (B, T, V) and their targets (B, T), as far as they are this process's to tell: T may be a part of the
        row, and None is nothing."""
        x, y, memory, documents = self.own(batch)
        with autocast():
            return placed(x, None, memory, documents), y

    def sum(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over all processes that have a loss of their own, the same everywhere."""
        return x

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers, the same everywhere. The device is not waited for."""
        return number

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        """Clip the global gradient norm (0: only measure it) and return it, on the device."""
        return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or float("inf"))

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state, whole, in the first process; elsewhere nothing. All processes have to ask."""
        return model.state_dict()
