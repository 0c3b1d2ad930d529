"""Part 2b: how long each kernel takes for forward and backward, and the order that these times give for kernel=auto."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.attention import Case, best
from benchmarks.gpu.compiler import needs_compiler
from benchmarks.gpu.kernels import rejection
from benchmarks.gpu.part import Part, Partial, Results, Row, Settings, Unsupported
from benchmarks.gpu.sdpa_backends import BACKENDS, KERNELS, backend_of
from benchmarks.report import markdown_table
from gptx.runs.units import human

HEADS, DIM, TOKENS = 16, 64, 65536  # so many tokens that a GPU takes longer than the launch of its kernels
CONTEXTS, OTHER_CONTEXTS = (4096, 16384, 1024), (2048, 8192)  # most valuable first
WINDOW = 1024
MEMORY = 24e9  # bytes of (T, T) tensors that a kernel may create


@dataclass(frozen=True)
class Setup:
    """``window``: tokens, 0 is full attention."""

    kernel: str
    dtype: str
    window: int
    context: int

    def __str__(self) -> str:
        return f"{self.kernel}, {self.dtype}, {'window' if self.window else 'full'}, {self.context:,} tokens"


@dataclass(frozen=True)
class Time:
    """``ms``: milliseconds for ``tokens`` tokens; ``peak``: bytes per token; ``auto``: what kernel=auto takes today."""

    setup: Setup
    ms: float
    heads: int
    tokens: int
    peak: float
    auto: str
    wrong: str = ""

    @property
    def text(self) -> str:
        return f"{self.ms:.3f} ms for {self.tokens:,} tokens, {human(self.peak, 'B')} per token"


def cases(settings: Settings) -> Mapping[str, Setup]:
    """First what the order of kernel=auto depends on, then fp32, then the enforced backends and other contexts."""
    if settings.toy:
        setups = list(_setups(KERNELS, "bf16", (128,), 64))
    else:
        setups = [
            *_setups(KERNELS, "bf16", CONTEXTS, WINDOW),
            *_setups(KERNELS, "fp32", CONTEXTS[:1], WINDOW),
            *_setups(list(BACKENDS), "bf16", CONTEXTS, WINDOW),
            *_setups([*KERNELS, *BACKENDS], "bf16", OTHER_CONTEXTS, WINDOW),
            *_setups(list(BACKENDS), "fp32", CONTEXTS[:1], WINDOW),
        ]
    return {str(setup): setup for setup in setups}


def _setups(kernels: Sequence[str], dtype: str, contexts: Sequence[int], window: int) -> Iterator[Setup]:
    for context in contexts:
        for size in (0, window):
            if size < context:
                for kernel in kernels:
                    if kernel != "banded" or size:
                        yield Setup(kernel, dtype, size, context)


def measure(setup: Setup, settings: Settings, partial: Partial) -> Time:
    if setup.kernel == "flex":
        needs_compiler(settings)
    torch.compiler.reset()
    device = torch.device(settings.device)
    batch = 1 if settings.toy else batch_of(setup)
    case = Case(2 if settings.toy else HEADS, DIM, setup.context, setup.window, False, setup.dtype, batch, device)
    with backend_of(setup.kernel) as kernel:
        if reason := rejection(case, kernel):
            raise Unsupported(reason)
        if (size := case.weights("reference" if setup.kernel == "sdpa: math" else kernel)) > MEMORY:
            raise Unsupported(f"its (T, T) tensors need {human(size, 'B')}")
        before = reset_peak(device)
        ms = best(case, kernel, 3, seconds=0.005 if settings.toy else 0.05)
    tokens, auto = batch * setup.context, case.chosen()
    return Time(setup, ms, case.heads, tokens, (peak(device) - before) / tokens, auto)


def batch_of(setup: Setup) -> int:
    """As many rows as give ``TOKENS``, or the memory of a kernel that creates (T, T) tensors allows."""
    rows = TOKENS // setup.context
    if setup.kernel in ("reference", "sdpa: math"):
        rows = min(rows, int(MEMORY // (16 * HEADS * setup.context**2)))
    return max(1, rows)


def reset_peak(device: torch.device) -> int:
    """Start to measure the peak of a GPU's memory; returns the bytes in use. 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def peak(device: torch.device) -> int:
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0


@dataclass(frozen=True)
class Order:
    """The kernels of gptx, fastest first. ``slower``: a kernel's time divided by that of the kernel that it is furthest
    behind: the geometric mean over the contexts at which both are measured. ``contexts``: all that are measured."""

    dtype: str
    windowed: bool
    slower: dict[str, float]
    contexts: list[int]

    def __str__(self) -> str:
        layers = f"{'windows' if self.windowed else 'full attention'} in {self.dtype}"
        ranks = ", ".join(f"{kernel} ({factor:.2f})" for kernel, factor in self.slower.items())
        return f"{layers}: {ranks}; over {', '.join(f'{context:,}' for context in self.contexts)} tokens"


def orders(rows: Sequence[Row]) -> list[Order]:
    """The orders that kernel=auto should take, as far as they are measured: gptx's own kernels only, because a config
    cannot enforce a backend of sdpa."""
    found = []
    for dtype in ("bf16", "fp32"):
        for windowed in (False, True):
            times = _times(rows, dtype, windowed)
            times = {kernel: by_context for kernel, by_context in times.items() if kernel in KERNELS}
            if times:
                slower = {kernel: _behind(by_context, times) for kernel, by_context in times.items()}
                ranked = dict(sorted(slower.items(), key=lambda pair: pair[1]))
                contexts = sorted({context for by_context in times.values() for context in by_context})
                found.append(Order(dtype, windowed, ranked, contexts))
    return found


def _behind(own: Mapping[int, float], times: Mapping[str, Mapping[int, float]]) -> float:
    """How much slower a kernel is than the one that it is furthest behind, each over the contexts of both."""
    pairs = ([own[c] / other[c] for c in own if c in other] for other in times.values())
    return max(_mean(factors) for factors in pairs if factors)  # at least 1: it is compared with itself too


def _mean(factors: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, factors)) / len(factors))


def _times(rows: Sequence[Row], dtype: str, windowed: bool) -> dict[str, dict[int, float]]:
    """Microseconds per token by kernel and context."""
    times: dict[str, dict[int, float]] = {}
    for row in rows:
        if _fits(row, dtype, windowed):
            setup = row.figures["setup"]
            per_token = row.figures["ms"] * 1e3 / row.figures["tokens"]
            times.setdefault(setup["kernel"], {})[setup["context"]] = per_token
    return times


def tables(rows: Sequence[Row], results: Results) -> str:
    heads = rows[0].figures["heads"]
    blocks = [f"Forward and backward, {heads} heads of {DIM}, nanoseconds per token; best of three rounds."]
    for dtype in ("bf16", "fp32"):
        for windowed in (False, True):
            if times := _times(rows, dtype, windowed):
                blocks.append(_table(times, rows, dtype, windowed))
    if found := orders(rows):
        blocks.append("The order that these times give for kernel=auto, with how much slower than the fastest:")
        blocks.append("\n".join(f"- {order}" for order in found))
    return "\n\n".join(blocks)


def _table(times: dict[str, dict[int, float]], rows: Sequence[Row], dtype: str, windowed: bool) -> str:
    contexts = sorted({context for by_context in times.values() for context in by_context})
    lines = [
        (kernel, *(f"{by[context] * 1e3:,.1f}" if context in by else "" for context in contexts))
        for kernel, by in times.items()
    ]
    own = [row.figures for row in rows if _fits(row, dtype, windowed)]
    chosen = {figures["setup"]["context"]: figures["auto"] for figures in own}
    lines.append(("kernel=auto takes", *(chosen.get(context, "") for context in contexts)))
    head = f"{dtype}, window {own[0]['setup']['window']:,}" if windowed else f"{dtype}, full attention"
    return markdown_table((head, *(f"{context:,}" for context in contexts)), lines, left=1)


def _fits(row: Row, dtype: str, windowed: bool) -> bool:
    return (row.figures["setup"]["dtype"], bool(row.figures["setup"]["window"])) == (dtype, windowed)


def derived(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The orders, for the JSON file."""
    return [asdict(order) for order in orders(rows)]


PART = Part("times", "Times of the kernels", 90, 45, cases, measure, tables)
