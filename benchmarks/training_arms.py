"""The arms of `benchmarks.train`: the training step of gptx, and of other code, for equal sizes of model and batch."""

import contextlib
import importlib.util
import io
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from gptx.config.compose import compose
from gptx.config.instantiate import part
from gptx.hardware.description import peak_memory
from gptx.hardware.device import autocast, pick
from gptx.runs.folder import RunFolder
from gptx.training.trainer import Trainer


@dataclass(frozen=True)
class Shape:
    """The sizes of a model and of its batch."""

    n_layer: int
    n_head: int
    d_model: int
    context: int
    vocab_size: int
    batch_size: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.context

    def __str__(self) -> str:
        sizes = f"{self.n_layer} x {self.d_model}, {self.n_head} heads, context {self.context}"
        return f"{sizes}, batch {self.batch_size}, vocabulary {self.vocab_size:,}"


class Arm(Protocol):
    """One way to train. `wait` returns when the device has finished all steps; `close` ends the threads of the arm."""

    n_params: int
    device: torch.device

    def step(self) -> None: ...

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Gptx:
    """`gptx.training.trainer.Trainer.step`, as a run calls it, on a corpus of random characters.

    Args:
        overrides: overrides for `gptx.compose`, besides the sizes.
        folder: folder for the corpus and its token files; arms of one shape share it.
    """

    def __init__(self, shape: Shape, device: str, overrides: Sequence[str], folder: Path) -> None:
        sizes = [
            f"model.{key}={getattr(shape, key)}" for key in ("n_layer", "n_head", "d_model", "context", "vocab_size")
        ]
        text = corpus(shape, folder)
        data = ["data=text", f"data.path={text}", "tokenizer=char", f"paths.data={folder}", "tracking=off"]
        batch = [f"trainer.batch_size={shape.batch_size}", "trainer.max_steps=1000000"]
        cfg = compose([*sizes, *data, *batch, f"device={device}", *overrides])
        self.device = pick(device)
        self.trainer = Trainer(cfg, RunFolder(folder / "run"), part(cfg.strategy).open(cfg.device.type), None)
        self.n_params = sum(p.numel() for p in self.trainer.model.parameters())

    def step(self) -> None:
        self.trainer.step()

    def wait(self) -> None:
        self.trainer.meter.grad_norm.item()

    def close(self) -> None:
        self.trainer.close()


class NanoGPT:
    """karpathy/nanoGPT's model and optimiser from a checkout, used as its train.py does: fp32 on a CPU, bf16 on CUDA.

    It gets two advantages: the fused AdamW, which it uses on CUDA only, and a batch that is already on the device.
    """

    def __init__(self, shape: Shape, device: str, path: Path, compiled: bool = False) -> None:
        self.device = pick(device)
        peer = _module(path / "model.py")
        config = peer.GPTConfig(
            block_size=shape.context,
            vocab_size=shape.vocab_size,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.d_model,
            dropout=0.0,
            bias=False,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            self.model = peer.GPT(config).to(self.device)
            self.optimizer = self.model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cuda")  # "cuda": fused
        self.n_params = sum(p.numel() for p in self.model.parameters())
        self.forward = torch.compile(self.model) if compiled else self.model
        rows = torch.randint(0, shape.vocab_size, (shape.batch_size, shape.context + 1)).to(self.device)
        self.x, self.y = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.norm: Tensor | None = None

    def step(self) -> None:
        with autocast(self.device, self.dtype):
            _, loss = self.forward(self.x, self.y)
        loss.backward()
        self.norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def wait(self) -> None:
        if self.norm is not None:
            self.norm.item()

    def close(self) -> None:
        pass


PEERS: dict[str, Any] = {"nanogpt": NanoGPT}
WARM_UP = 4  # steps: the first one compiles, and some more allocate memory that later ones reuse


@dataclass(frozen=True)
class Turn:
    """The result of timing one arm once."""

    tokens_per_s: float
    n_params: int
    peak_memory_bytes: int


def turn(make: Callable[..., Arm], shape: Shape, args: Sequence[Any], seconds: float) -> Turn:
    """Build an arm and time it."""
    return timed(make(shape, *args), shape, seconds)


def timed(arm: Arm, shape: Shape, seconds: float) -> Turn:
    """Train some untimed steps first, then time steps for about ``seconds``, at least one step."""
    _seconds(arm, WARM_UP)
    steps, seconds_taken = 1, _seconds(arm, 1)
    if seconds_taken < seconds:
        steps = round(seconds / seconds_taken)
        seconds_taken = _seconds(arm, steps)
    return Turn(steps * shape.tokens / seconds_taken, arm.n_params, peak_memory(arm.device))


def _seconds(arm: Arm, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        arm.step()
    arm.wait()
    return time.perf_counter() - start


def corpus(shape: Shape, folder: Path) -> Path:
    """A file of random text with exactly ``vocab_size`` different characters, the tokenizer's newline included."""
    path = folder / "corpus.txt"
    if not path.exists():
        characters = [chr(0x20000 + i) for i in range(shape.vocab_size - 1)]
        repeats = 1 + 40 * shape.context // shape.vocab_size
        path.write_text("".join(random.Random(0).sample(characters * repeats, k=repeats * len(characters))), "utf-8")
    return path


def _module(path: Path) -> ModuleType:
    """Import a file of a peer as a module, without changing sys.path."""
    spec = importlib.util.spec_from_file_location(f"peer_{path.parent.name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
