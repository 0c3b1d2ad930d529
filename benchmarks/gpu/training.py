"""Part 3: training speed, beside nanoGPT, as a share of the measured rate of matrix products; and memory, beside what
`gptx.memory` predicts."""

import gc
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.gpu.compiler import needs_compiler
from benchmarks.gpu.device import rate_of
from benchmarks.gpu.kernel_times import reset_peak
from benchmarks.gpu.part import Part, Partial, Results, Row, Settings
from benchmarks.report import markdown_table
from benchmarks.train import SAME_MODEL, SHAPES
from benchmarks.training_arms import Arm, Gptx, NanoGPT, Shape, timed
from gptx.config.compose import compose
from gptx.hardware.description import peak_memory
from gptx.hardware.device import compute_dtype
from gptx.memory.estimate import estimate
from gptx.model.build import build
from gptx.model.cost import flops_per_token
from gptx.runs.units import human

# GPT-2 124M, as nanoGPT trains it. 32 rows of 1,024 tokens need about 45 GB without compile, most of it for logits and
# activations: they fit on 80 GB. On a smaller GPU the batch is halved until it fits.
GPT2 = Shape(12, 12, 768, 1024, 50304, 32)
MODELS = {"GPT-2 124M": GPT2, "nano": Shape(*SHAPES["nano"])}
TOYS = {"GPT-2 124M": Shape(1, 2, 32, 32, 65, 2), "nano": Shape(1, 2, 16, 16, 65, 2)}
SECONDS = 3.0  # of the timed steps of an arm
DEFAULT = "default variant"


@dataclass(frozen=True)
class Setup:
    """``arm``: gptx (the model of nanoGPT), nanoGPT, or gptx's default variant."""

    model: str
    arm: str
    compiled: bool

    def __str__(self) -> str:
        return f"{self.model}, {self.arm}, {'compiled' if self.compiled else 'eager'}"


@dataclass(frozen=True)
class Memory:
    """Bytes. ``allocated``: the peak of torch's tensors; ``reserved``: with the allocator's free blocks; ``used``: on
    the device, with the driver's context. Predicted: weights and moments, the rest of a step, and the process."""

    allocated: int
    reserved: int
    used: int
    predicted_held: int = 0
    predicted_step: int = 0
    predicted_base: int = 0


@dataclass(frozen=True)
class Speed:
    """Tokens/s of one arm. ``start``: seconds until the first steps were done, compilation included.

    Attributes:
        flops: of a training step per token: gptx's count of visible pairs.
        flops_palm: 6 N + 12 L H Q T, which counts all pairs; N without the position embedding (nanoGPT's convention).
    """

    setup: Setup
    shape: Shape
    tokens_per_s: float
    start: float
    n_params: int
    flops: int
    flops_palm: int
    memory: Memory
    wrong: str = ""

    @property
    def text(self) -> str:
        rate = self.tokens_per_s * self.flops / 1e12
        return (
            f"{self.tokens_per_s:,.0f} tokens/s, {rate:.1f} TFLOP/s, {human(self.memory.allocated, 'B')}, "
            f"first steps after {self.start:.0f} s"
        )


def cases(settings: Settings) -> Mapping[str, Setup]:
    setups = toys(settings) if settings.toy else all_setups(settings)
    return {str(setup): setup for setup in setups}


def all_setups(settings: Settings) -> Iterator[Setup]:
    """Compiled GPT-2 first, then everything that needs no compiler, then the other compiled arms."""
    peer = ["nanoGPT"] if settings.peer else []
    for arm in ("gptx", *peer):
        yield Setup("GPT-2 124M", arm, True)
    for model in MODELS:
        for arm in ("gptx", *peer):
            yield Setup(model, arm, False)
    for arm in ("gptx", *peer):
        yield Setup("nano", arm, True)
    yield Setup("GPT-2 124M", DEFAULT, True)
    yield Setup("nano", DEFAULT, False)


def toys(settings: Settings) -> Iterator[Setup]:
    yield Setup("GPT-2 124M", "gptx", False)
    for arm in ("gptx", *(["nanoGPT"] if settings.peer else [])):
        yield Setup("nano", arm, not settings.peer or arm != "gptx")


def measure(setup: Setup, settings: Settings, partial: Partial) -> Speed:
    """Time one arm, with the largest batch of the shape's, its half, its quarter, ... that fits."""
    if setup.compiled:
        needs_compiler(settings)
    shape = (TOYS if settings.toy else MODELS)[setup.model]
    while True:
        try:
            return timed_arm(setup, shape, settings)
        except torch.OutOfMemoryError:
            if shape.batch_size == 1:
                raise
        gc.collect()
        torch.cuda.empty_cache()
        shape = replace(shape, batch_size=shape.batch_size // 2)


def timed_arm(setup: Setup, shape: Shape, settings: Settings) -> Speed:
    torch.compiler.reset()
    device, began = torch.device(settings.device), time.perf_counter()
    reset_peak(device)
    arm = make(setup, shape, settings)
    try:
        arm.step()
        arm.wait()
        start = time.perf_counter() - began
        reset_peak(device)  # compilation and its tuning need memory that a later step does not
        turn = timed(arm, shape, 0.2 if settings.toy else SECONDS)
        memory, wrong = used_memory(device), ""
        if isinstance(arm, Gptx):
            memory, wrong = with_prediction(memory, arm, device)
    finally:
        arm.close()
    flops = flops_of(shape, settings)
    others = 12 * shape.n_layer * shape.d_model * shape.context
    palm = 6 * (turn.n_params - shape.context * shape.d_model) + others
    return Speed(setup, shape, turn.tokens_per_s, start, turn.n_params, flops, palm, memory, wrong)


def make(setup: Setup, shape: Shape, settings: Settings) -> Arm:
    if setup.arm == "nanoGPT":
        return NanoGPT(shape, settings.device, Path(settings.peer), setup.compiled)
    folder = Path(settings.scratch) / f"corpus-{shape.vocab_size}-{shape.context}"
    folder.mkdir(exist_ok=True)
    model = () if setup.arm == DEFAULT else SAME_MODEL
    precision = "precision=fp32" if settings.toy else "precision=bf16"
    overrides = (*model, precision, f"compile={str(setup.compiled).lower()}")
    return Gptx(shape, settings.device, overrides, folder)


def flops_of(shape: Shape, settings: Settings) -> int:
    """FLOPs per token of gptx's model of these sizes, which is also that of nanoGPT."""
    sizes = [f"model.{key}={getattr(shape, key)}" for key in ("n_layer", "n_head", "d_model", "context", "vocab_size")]
    with torch.device("meta"):
        return flops_per_token(build(compose([*sizes, *SAME_MODEL, f"device={settings.device}"]), shape.vocab_size))


def used_memory(device: torch.device) -> Memory:
    """The peaks since `reset_peak`; on a CPU, those of the process."""
    allocated = reserved = used = peak_memory(device)
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device)
        free, total = torch.cuda.mem_get_info(device)
        used = total - free
    return Memory(allocated, reserved, used)


def with_prediction(memory: Memory, arm: Gptx, device: torch.device) -> tuple[Memory, str]:
    """Add what `gptx.memory` predicts; if that fails, why: the speed that was measured must not be lost."""
    cfg = arm.trainer.cfg
    vocabulary, dtype = arm.trainer.tokens.tokenizer.n_vocab, compute_dtype(cfg.precision.dtype, device)
    try:
        found = estimate(cfg, vocabulary, device.type, dtype, 1)
    except Exception as error:
        traceback.print_exc()
        return memory, f"its memory cannot be predicted: {type(error).__name__}: {error}"
    return replace(memory, predicted_held=found.held, predicted_step=found.step, predicted_base=found.base), ""


def tables(rows: Sequence[Row], results: Results) -> str:
    rate = rate_of(results, "matrix bf16")
    head = ("model", "arm", "batch", "tokens/s", "x nanoGPT", "MFU", "MFU (6N + 12LHQT)", "start, s")
    lines = [_speed_cells(row, rows, rate) for row in rows]
    legend = "; ".join(
        dict.fromkeys(f"{row.figures['setup']['model']}: {Shape(**row.figures['shape'])}" for row in rows)
    )
    share = (
        f"MFU: share of the measured {rate:,.0f} TFLOP/s in bf16" if rate else "MFU: the matrix rate was not measured"
    )
    text = f"{legend}. {share}, counting visible pairs, or all. x nanoGPT: both compiled, or both eager."
    memory = [_memory_cells(row) for row in rows if row.figures["memory"]["predicted_held"]]
    memory_head = ("model", "arm", "peak", "predicted", "ratio", "reserved", "on the device", "predicted with driver")
    about = "Memory in GB: the peak of torch's tensors and what `gptx.memory` predicted for a training step."
    return "\n\n".join([text, markdown_table(head, lines), about, markdown_table(memory_head, memory)])


def _speed_cells(row: Row, rows: Sequence[Row], rate: float | None) -> tuple[str, ...]:
    figures = row.figures
    setup, speed = Setup(**figures["setup"]), figures["tokens_per_s"]
    peers = [one.figures["tokens_per_s"] for one in rows if _is_peer(one, setup)]
    shares = [f"{speed * figures[key] / rate / 1e12:.1%}" if rate else "" for key in ("flops", "flops_palm")]
    ratio = f"{speed / peers[0]:.2f}" if peers else ""
    arm = f"{setup.arm}, {'compiled' if setup.compiled else 'eager'}"
    batch = str(figures["shape"]["batch_size"])
    return setup.model, arm, batch, f"{speed:,.0f}", ratio, *shares, f"{figures['start']:.1f}"


def _is_peer(row: Row, setup: Setup) -> bool:
    return Setup(**row.figures["setup"]) == replace(setup, arm="nanoGPT")


def _memory_cells(row: Row) -> tuple[str, ...]:
    setup, memory = Setup(**row.figures["setup"]), Memory(**row.figures["memory"])
    predicted = memory.predicted_held + memory.predicted_step
    sizes = (memory.reserved, memory.used, predicted + memory.predicted_base)
    numbers = [f"{size / 1e9:.2f}" for size in (memory.allocated, predicted)]
    arm = f"{setup.arm}, {'compiled' if setup.compiled else 'eager'}"
    return setup.model, arm, *numbers, f"{predicted / memory.allocated:.2f}", *(f"{size / 1e9:.2f}" for size in sizes)


PART = Part("training", "Training", 180, 100, cases, measure, tables)
