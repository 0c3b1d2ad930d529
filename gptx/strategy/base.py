"""The contract of a strategy. This base is one process that holds everything; a variant says what it does otherwise."""

import contextlib
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gptx.device import pick
from gptx.errors import ConfigError


class Strategy:
    """A context manager: inside it the process group and the device stand.

    Attributes:
        in_process: the run is the command's own process; else the command starts workers.
        rank, size: which slice of the global batch is this process's, of how many.
        device: where the model lives.
    """

    in_process: bool = True
    rank: int = 0
    size: int = 1

    def __init__(self, *, nproc: int) -> None:
        self.nproc = nproc
        self.device = torch.device("cpu")

    def processes(self, device: str, launched: int) -> int:
        """How many processes the run has: ``launched`` where torchrun has started them (else 0), or how many the
        command is to start on this machine.

        Raises:
            ConfigError: not with so many.
        """
        if launched > 1:
            raise ConfigError(f"this strategy is one process, torchrun started {launched}: use strategy=ddp")
        return 1

    def open(self, device: str) -> "Strategy":
        """Choose the device before ``with``; ``device`` is auto, cpu, cuda or mps."""
        self.device = pick(device)
        return self

    def __enter__(self) -> "Strategy":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def place(self, model: nn.Module) -> nn.Module:
        """The model on its device, wrapped so that ``model(x, y)`` and backward do what the strategy needs."""
        return model.to(self.device)

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        """Round one micro-batch: gradients need to meet only in the last."""
        return contextlib.nullcontext()

    def sum(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over all processes, the same everywhere."""
        return x

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers, the same everywhere."""
        return number

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        """Clip the global gradient norm (0: only measure it) and return it, on the device."""
        return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or float("inf"))

    def state(self, model: nn.Module, optim: torch.optim.Optimizer) -> dict[str, Any]:
        """What a checkpoint holds of model and optimiser, under names that do not depend on the strategy."""
        return {"model": model.state_dict(), "optim": optim.state_dict()}

    def load(self, state: dict[str, Any], model: nn.Module, optim: torch.optim.Optimizer) -> None:
        """The inverse of `state`."""
        model.load_state_dict(state["model"])
        optim.load_state_dict(state["optim"])
