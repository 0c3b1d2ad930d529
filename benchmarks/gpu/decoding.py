"""Part 5a: tokens/s of decoding GPT-2 124M with random weights, and what share of the memory bandwidth that is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind

import torch

from benchmarks.gpu.device import rate_of
from benchmarks.gpu.part import Part, Partial, Results, Row, Settings
from benchmarks.report import markdown_table
from gptx.config.compose import compose
from gptx.hardware.device import autocast
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.model.kv_cache import KVCache
from gptx.model.sampling import tokens

PROMPT, COUNT = 128, 256  # tokens
SIZES = ("model=gpt2", "model.dropout=0", "pos=learned", "model.vocab_size=50257")
TOY_SIZES = ("model.n_layer=1", "model.n_head=2", "model.d_model=32", "model.context=64", "model.vocab_size=257")


@dataclass(frozen=True)
class Setup:
    """``weights``: fp32 under autocast to bf16, as ``gptx generate --precision bf16`` has them, or bf16."""

    batch: int
    weights: str
    how: str  # "loop": the forward alone; "sample": gptx.model.sampling, which picks every token on the CPU

    def __str__(self) -> str:
        rows = f"{self.batch} sequence{'s' * (self.batch > 1)}"
        return f"{rows}, {self.weights} weights{', with sampling' * (self.how == 'sample')}"


@dataclass(frozen=True)
class Decoding:
    """Tokens/s of all sequences together. ``read``: the bytes that a step has to read: weights and filled cache."""

    setup: Setup
    tokens_per_s: float
    steps_per_s: float
    read: float
    wrong: str = ""

    @property
    def text(self) -> str:
        return f"{self.tokens_per_s:,.0f} tokens/s, {self.read * self.steps_per_s / 1e9:,.0f} GB/s"


def cases(settings: Settings) -> Mapping[str, Setup]:
    setups = [Setup(batch, weights, "loop") for weights in ("bf16", "fp32") for batch in (1, 32)]
    setups.append(Setup(1, "fp32", "sample"))
    return {str(setup): setup for setup in setups}


def measure(setup: Setup, settings: Settings, partial: Partial) -> Decoding:
    device = torch.device(settings.device)
    model = model_of(settings, device, torch.bfloat16 if setup.weights == "bf16" else torch.float32)
    prompt, count = (8, 8) if settings.toy else (PROMPT, COUNT)
    if setup.how == "sample":
        speed = sampled(model, prompt, count, device)
    else:
        decode(model, setup.batch, prompt, 4)  # warm-up
        speed = count / decode(model, setup.batch, prompt, count)
    held = sum(p.nbytes for p in model.parameters())
    return Decoding(setup, speed * setup.batch, speed, held + cache_bytes(model, setup.batch, prompt + count / 2))


def model_of(settings: Settings, device: torch.device, dtype: torch.dtype) -> GPT:
    sizes = TOY_SIZES if settings.toy else SIZES
    cfg = compose([*sizes, f"device={settings.device}"])
    return build(cfg, cfg.model.vocab_size).to(device, dtype).eval()


@torch.no_grad()
def decode(model: GPT, batch: int, prompt: int, count: int) -> float:
    """Seconds for ``count`` greedy tokens after a prompt; the GPU chooses them, without waiting for the CPU."""
    device = model.embed.weight.device
    given = torch.randint(0, model.shape.vocab_size, (batch, prompt), device=device)
    cache, precision = KVCache(model.shape.context), bind(autocast, device, torch.bfloat16)
    with precision():
        newest = model(given, context=cache)[:, -1:].argmax(-1)  # (B, 1)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        with precision():  # a new one for each token, as in gptx.model.sampling: it casts fp32 weights again
            newest = model(newest, context=cache)[:, -1:].argmax(-1)
    synchronize(device)
    return time.perf_counter() - start


def sampled(model: GPT, prompt: int, count: int, device: torch.device) -> float:
    """Tokens/s of `gptx.model.sampling.tokens` after the first token."""
    precision = bind(autocast, device, torch.bfloat16)
    stream = tokens(model, list(range(1, prompt + 1)), count, autocast=precision)
    next(stream)
    start = time.perf_counter()
    taken = sum(1 for _ in stream)
    return taken / (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def cache_bytes(model: GPT, batch: int, length: float) -> float:
    """Bytes of a cache of ``length`` tokens of each sequence."""
    cache, device = KVCache(model.shape.context), model.embed.weight.device
    with autocast(device, torch.bfloat16):
        model(torch.zeros(1, 1, dtype=torch.long, device=device), context=cache)
    return cache.nbytes() / model.shape.context * batch * length


def tables(rows: Sequence[Row], results: Results) -> str:
    bandwidth = rate_of(results, "copy on the device")
    lines = []
    for row in rows:
        used = row.figures["read"] * row.figures["steps_per_s"] / 1e9
        share = f"{used / bandwidth:.1%}" if bandwidth else ""
        lines.append((row.case, f"{row.figures['tokens_per_s']:,.0f}", f"{used:,.0f}", share))
    text = (
        f"GPT-2 124M with random weights, {COUNT} tokens after a prompt of {PROMPT}, bf16; GB/s: weights and cache "
        "that must be read, and their share of the measured copy bandwidth."
    )
    return "\n\n".join([text, markdown_table(("", "tokens/s", "GB/s", "share"), lines, left=1)])


PART = Part("decoding", "Decoding", 20, 30, cases, measure, tables)
