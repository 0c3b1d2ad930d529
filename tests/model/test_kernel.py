"""Single kernels: equality with the reference kernel, rejected inputs, and the choice of `auto`."""

import functools
import importlib.machinery
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import call

import pytest
import torch
from helpers_model import arm, one_thread, options, rejected, tiny  # noqa: F401 - one_thread is a fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.attention import flex_attention as flex_module
from torch.utils._python_dispatch import TorchDispatchMode

from gptx.config.instantiate import part
from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.model.build import build
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def shape(n_head: int = 4, dim: int = 8, dropout: float = 0.0) -> ModelShape:
    return ModelShape(1, n_head, n_head * dim, 64, 9, dropout, False)


@functools.cache
def yaml(group: str, option: str) -> DictConfig:
    found: DictConfig = tiny(arm(**{group: option}))[group]
    return found


def kernel(name: str, shape: ModelShape, demands: frozenset[str] = frozenset()) -> Kernel:
    found: Kernel = part(yaml("kernel", name), shape, demands)
    return found


def window(name: str, **keys: Any) -> Window:
    cfg = yaml("window", name).copy()
    cfg.update(keys)
    found: Window = part(cfg)
    return found


@dataclass(frozen=True)
class Odd(Window):
    """A window that depends on the positions themselves and not only on their distance."""

    size: int
    every: int

    @property
    def reach(self) -> int | None:
        return self.size

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        far = q_pos - k_pos
        return (far == 0) | ((far < self.size) & ((q_pos * 7 + k_pos * 3) % self.every != 0))


class Learned(PositionalEncoding):
    """An elementwise bias with parameters, of the distance or also of the positions; not finite for future keys."""

    biased = True

    def __init__(self, n_head: int, relative: bool) -> None:
        nn.Module.__init__(self)
        self.relative = relative
        self.a, self.c = nn.Parameter(torch.rand(n_head)), nn.Parameter(torch.rand(1))

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        bias = -self.a[head] * torch.log1p(self.c.abs() * (q_pos - k_pos).clamp(min=-1))
        return bias if self.relative else bias * (1 + (q_pos % 3)) + 0.1 * (k_pos % 5)


class Plain(PositionalEncoding):
    relative = True

    def __init__(self) -> None:
        nn.Module.__init__(self)


def encoding(name: str, n_head: int) -> PositionalEncoding:
    if name in ("none", "alibi"):
        found: PositionalEncoding = part(yaml("pos", name), shape(n_head), 8, n_head)
        return found
    return Learned(n_head, relative=name == "distance")


@dataclass(frozen=True)
class Problem:
    """Random inputs of one call, in float64."""

    where: Where
    inputs: dict[str, Tensor]  # q, k, v, and perhaps sink and decay
    scale: float
    softcap: float

    def run(self, kernel: Kernel, window: Window, pos: PositionalEncoding, gradient: bool = True) -> dict[str, Tensor]:
        """The output, and the gradients of all inputs that have one."""
        leaves = {key: x.clone().requires_grad_(gradient) for key, x in self.inputs.items()}
        score = Score(self.scale, self.softcap, leaves.get("sink"), leaves.get("decay"))
        y = kernel(leaves["q"], leaves["k"], leaves["v"], kernel.mask(self.where, window, pos), score)
        leaves |= dict(pos.named_parameters())
        if not gradient:
            return {"y": y}
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double).to(y)
        gradients = torch.autograd.grad(y, list(leaves.values()), weights)
        return {"y": y, **dict(zip(leaves, gradients, strict=True))}


def problem(
    heads: tuple[int, int],
    tokens: tuple[int, int],
    dims: tuple[int, int] = (8, 8),
    batch: int = 2,
    cuts: frozenset[int] | None = None,
    softcap: float = 0.0,
    more: tuple[str, ...] = (),
    seed: int = 0,
    offset: int = 0,
) -> Problem:
    """``heads`` (H, G), ``tokens`` (Tq, Tk), ``dims`` (D, Dv); ``cuts``: where new documents start; None: one each."""
    (n_head, groups), (queries, keys), (dim, width) = heads, tokens, dims
    stream = torch.Generator().manual_seed(seed)
    sizes = {"q": (batch, queries, n_head, dim), "k": (batch, keys, groups, dim), "v": (batch, keys, groups, width)}
    sizes |= {key: {"sink": (n_head,), "decay": (batch, keys, groups)}[key] for key in more}
    inputs = {key: torch.randn(size, generator=stream, dtype=torch.double) for key, size in sizes.items()}
    if "decay" in more:
        inputs["decay"] = inputs["decay"].abs().cumsum(1)
    if cuts is not None:
        begins = torch.zeros(batch, keys, dtype=torch.long)
        for cut in cuts:
            begins[cut % batch, cut] = 1
        packed = Where.packed(begins.cumsum(1))
        assert packed.q_doc is not None
        where = replace(packed, q_pos=packed.q_pos[:, -queries:], q_doc=packed.q_doc[:, -queries:])
    elif queries == keys and not offset:
        where = Where.rows(keys)
    else:
        at = torch.arange(offset, offset + keys)[None]
        where = Where(at[:, -queries:], at)
    return Problem(where, inputs, 0.3, softcap)


def same(a: dict[str, Tensor], b: dict[str, Tensor], bound: float = 1e-10) -> None:
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=bound, atol=bound, msg=lambda text, key=key: f"{key}: {text}")


@st.composite
def problems(draw: st.DrawFn, longest: int = 150) -> Problem:
    keys = draw(st.integers(1, longest))
    queries = draw(st.one_of(st.just(keys), st.integers(1, keys), st.integers(1, min(3, keys))))
    groups, share = draw(st.sampled_from([(1, 1), (1, 3), (2, 2), (3, 1)]))
    return problem(
        (groups * share, groups),
        (queries, keys),
        dims=(draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        batch=draw(st.integers(1, 2)),
        cuts=draw(
            st.none() | st.frozensets(st.integers(1, max(1, keys - 1)).map(lambda c: min(c, keys - 1)), max_size=6)
        ),
        softcap=draw(st.sampled_from([0.0, 2.0])),
        more=tuple(draw(st.sets(st.sampled_from(["sink", "decay"])))),
        seed=draw(st.integers(0, 99)),
        offset=draw(st.sampled_from([0, 0, 1000])),
    )


windows = st.one_of(
    st.integers(1, 200).map(lambda size: window("sliding", size=size)),
    st.builds(Odd, st.integers(1, 90), st.integers(2, 5)),
)


# banded


@settings(max_examples=26)
@given(given_=problems(), window=windows, pos=st.sampled_from(["none", "alibi", "distance", "places"]))
def test_banded_equals_the_reference(given_: Problem, window: Window, pos: str) -> None:
    n_head = given_.inputs["q"].shape[2]
    bias = encoding(pos, n_head).double()
    slow, fast = (given_.run(kernel(name, shape(n_head)), window, bias) for name in ("reference", "banded"))
    assert all(x.isfinite().all() for x in slow.values())
    same(fast, slow)


class Sizes(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.largest = max(self.largest, x.numel())
        return out


@pytest.mark.parametrize("pos", ["none", "alibi", "distance", "places"])
def test_banded_memory_is_linear_in_the_context(pos: str) -> None:
    def largest(name: str, length: int) -> int:
        given_ = problem((2, 1), (length, length), batch=1, more=("sink", "decay"))
        with Sizes() as sizes:
            given_.run(kernel(name, shape(2)), window("sliding", size=64), encoding(pos, 2))
        return sizes.largest

    assert largest("reference", 1024) >= 2 * 1024**2
    assert largest("banded", 2048) < 2048**2 / 4
    assert largest("banded", 2048) <= 2 * largest("banded", 1024), "and what it makes grows no faster than the context"


def test_banded_needs_a_reach() -> None:
    reason = kernel("banded", shape()).rejects(window("full"), Plain(), "cpu")
    assert reason == "it needs a window with a reach, such as sliding; use kernel=auto"
    cfg = tiny(arm(kernel="banded", window="alternating"))
    assert rejected(build, cfg, 9) == f"kernel=banded with attention=mha, pos=rope, window=alternating: {reason}"
    assert kernel("banded", shape()).rejects(window("sliding", size=3), Plain(), "cpu") is None


@pytest.mark.parametrize("name", ["reference", "banded"])
def test_dropout_preserves_the_mean(name: str) -> None:
    given_ = problem((2, 1), (80, 80))
    dropping, plain = kernel(name, shape(2, dropout=0.5)), kernel(name, shape(2))
    sees = window("sliding", size=40)
    torch.manual_seed(0)
    mean = torch.stack([given_.run(dropping, sees, Plain(), False)["y"].detach() for _ in range(400)]).mean(0)
    y = given_.run(plain, sees, Plain(), False)["y"]
    assert not torch.allclose(given_.run(dropping, sees, Plain(), False)["y"], y)
    assert (mean - y).pow(2).mean().sqrt() < 0.1 * y.std() + 0.06
    same(given_.run(dropping.eval(), sees, Plain()), given_.run(plain, sees, Plain()))


@pytest.mark.parametrize("queries", [1, 5, 100])
def test_banded_compiles_to_one_graph(queries: int) -> None:
    given_, banded, pos = (
        problem((4, 2), (queries, 100), more=("sink", "decay")),
        kernel("banded", shape()),
        encoding("alibi", 4),
    )

    def attend(q: Tensor, k: Tensor, v: Tensor, sink: Tensor, decay: Tensor) -> Tensor:
        mask = banded.mask(given_.where, window_, pos)
        y: Tensor = banded(q, k, v, mask, Score(0.3, 2.0, sink, decay))
        return y

    window_ = window("sliding", size=20)
    inputs = [given_.inputs[key] for key in ("q", "k", "v", "sink", "decay")]
    torch._dynamo.reset()
    y = torch.compile(attend, fullgraph=True, backend="eager")(*inputs)
    torch.testing.assert_close(y, attend(*inputs), rtol=0, atol=1e-12)


# flex: its forward in eager mode, on a CPU, where it has no backward


@pytest.fixture
def eager_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.usefixtures("eager_flex")
@pytest.mark.parametrize("cuts", [None, frozenset({3, 10, 31, 40, 41})], ids=["row", "packed"])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("pos", ["none", "alibi"])
@pytest.mark.parametrize("sees", [window("full"), window("sliding", size=9), Odd(20, 3)], ids=str)
def test_flex_forward_equals_the_reference(
    sees: Window, pos: str, heads: tuple[int, int], cuts: frozenset[int]
) -> None:
    for softcap, more in ((0.0, ()), (2.0, ("sink",))):
        given_ = problem(heads, (50, 50), (16, 32), cuts=cuts, softcap=softcap, more=more)
        with torch.no_grad():
            slow, fast = (
                given_.run(kernel(name, shape(heads[0])), sees, encoding(pos, heads[0]), False)
                for name in ("reference", "flex")
            )
        same(fast, slow, 1e-6)  # inside, it takes float64 for float32


@settings(max_examples=10)
@given(queries=st.integers(1, 19))
def test_flex_with_a_cache_equals_the_reference(queries: int) -> None:
    given_ = problem((4, 2), (queries, 20), more=("sink",))
    slow, fast = (
        given_.run(kernel(name, shape()), window("full"), encoding("alibi", 4)) for name in ("reference", "flex")
    )
    same(fast, slow)


def test_flex_rejections() -> None:
    full, plain = window("full"), Plain()

    def why(*args: Any, dropout: float = 0.0, demands: frozenset[str] = frozenset()) -> str | None:
        return kernel("flex", shape(dropout=dropout), demands).rejects(*args)

    assert why(full, plain, "cuda") is None
    assert why(Odd(9, 2), encoding("alibi", 4), "cuda", demands=frozenset({"sink", "softcap"})) is None
    assert "device=cpu" in str(why(full, plain, "cpu"))
    assert "model.dropout=0.1" in str(why(full, plain, "cuda", dropout=0.1))
    assert "learned bias" in str(why(full, Learned(4, True), "cuda"))
    assert "decay" in str(why(full, plain, "cuda", demands=frozenset({"decay"})))
    rejected_ = [
        why(full, plain, "cpu"),
        why(full, plain, "cuda", dropout=0.1),
        why(full, Learned(4, True), "cuda"),
    ]
    assert all("kernel=auto" in str(text) and "\n" not in str(text) for text in rejected_)


# flash: the arguments for the package give the result of the reference


def slow_flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """flash_attn_func as its README documents it: (batch, seqlen, nheads, headdim); heads of k and v divide q's. Query
    i sees the keys j with i + Tk - Tq - left <= j <= i + Tk - Tq + right, -1 being no bound; with causal, no later one.
    "A bias of (-alibi_slope * |i + seqlen_k - seqlen_q - j|) is added". One query and head at a time."""
    assert dropout_p == 0 and softmax_scale is not None
    assert q.dtype == k.dtype == v.dtype and q.dtype in (torch.float16, torch.bfloat16)
    assert q.shape[-1] == k.shape[-1] == v.shape[-1] and (alibi_slopes is None or alibi_slopes.dtype == torch.float32)
    q, k, v = q.double(), k.double(), v.double()
    y = torch.zeros_like(q)
    for h in range(q.shape[2]):
        g = h // (q.shape[2] // k.shape[2])
        for i in range(q.shape[1]):
            at = i + k.shape[1] - q.shape[1]
            left = 0 if window_size[0] < 0 else max(0, at - window_size[0])
            right = k.shape[1] - 1 if window_size[1] < 0 else at + window_size[1]
            j = torch.arange(left, 1 + (min(right, at) if causal else right))
            logits = torch.einsum("bd,bjd->bj", q[:, i, h], k[:, j, g]) * softmax_scale
            logits = softcap * torch.tanh(logits / softcap) if softcap else logits
            if alibi_slopes is not None:
                logits = logits - alibi_slopes[h].double() * (at - j).abs()
            y[:, i, h] = torch.einsum("bj,bjd->bd", logits.softmax(-1), v[:, j, g])
    return y.to(torch.bfloat16)


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that replaces the package flash_attn."""
    package = types.ModuleType("flash_attn")
    package.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    package.flash_attn_func = slow_flash  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    yield


@pytest.mark.usefixtures("flash_attn")
@pytest.mark.parametrize("tokens", [(20, 20), (1, 20), (7, 20)], ids=str)
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("pos", ["none", "alibi"])
@pytest.mark.parametrize("sees", [window("full"), window("sliding", size=1), window("sliding", size=6)], ids=str)
def test_flash_arguments_give_the_result_of_the_reference(
    sees: Window, pos: str, softcap: float, tokens: tuple[int, int]
) -> None:
    given_ = problem((4, 2), tokens, (8, 6), softcap=softcap)
    low = Problem(given_.where, {key: x.bfloat16() for key, x in given_.inputs.items()}, 0.3, softcap)
    high = Problem(given_.where, {key: x.double() for key, x in low.inputs.items()}, 0.3, softcap)
    flash, bias = kernel("flash", shape(), frozenset({"softcap"} if softcap else ())), encoding(pos, 4)
    assert flash.rejects(sees, bias, "cuda") is None
    with torch.no_grad():
        y = low.run(flash, sees, bias, False)["y"].double()
        expected = high.run(kernel("reference", shape()), sees, bias, False)["y"]
    torch.testing.assert_close(y, expected, rtol=2**-8, atol=1e-6)  # the stand-in rounds only its output


@pytest.mark.usefixtures("flash_attn")
def test_flash_rejections(monkeypatch: pytest.MonkeyPatch) -> None:
    flash, full, plain = kernel("flash", shape()), window("full"), Plain()
    demanding = kernel("flash", shape(), frozenset({"decay", "sink"}))
    reason = {
        "device=cpu": flash.rejects(full, plain, "cpu"),
        "full and sliding windows only": flash.rejects(Odd(9, 2), plain, "cuda"),
        "no bias but that of alibi": flash.rejects(full, Learned(4, True), "cuda"),
        "no attention decay or sink": demanding.rejects(full, plain, "cuda"),
    }
    given_ = problem((4, 4), (20, 20), cuts=frozenset({3}))
    reason["packed documents"] = rejected(flash.mask, given_.where, full, plain)
    reason["given float64"] = rejected(lambda: replace(given_, where=Where.rows(20)).run(flash, full, plain))
    monkeypatch.undo()
    if importlib.util.find_spec("flash_attn") is None:
        reason["pip install flash-attn"] = flash.rejects(full, plain, "cuda")
    for piece, text in reason.items():
        assert text is not None and piece in text and "kernel=auto" in text and "\n" not in text, text


@pytest.mark.usefixtures("flash_attn")
def test_flash_accepts_only_sliding_windows() -> None:
    @dataclass(frozen=True)
    class Chunked(Window):
        """Back to the start of the chunk: within one chunk it equals a sliding window."""

        size: int

        @property
        def reach(self) -> int | None:
            return self.size

        def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
            return q_pos // self.size == k_pos // self.size

    @dataclass(frozen=True)
    class Dilated(Window):
        size: int

        @property
        def reach(self) -> int | None:
            return self.size

        def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
            return (q_pos - k_pos < self.size) & ((q_pos - k_pos) % 2 == 0)

    flash = kernel("flash", shape())
    for size in (2, 64, 1000):
        assert flash.rejects(window("sliding", size=size), Plain(), "cuda") is None
        assert flash.rejects(Chunked(size), Plain(), "cuda") is not None
        assert flash.rejects(Dilated(size), Plain(), "cuda") is not None


# auto


def chosen(
    where: Where,
    window: Window,
    pos: str = "none",
    low: bool = False,
    demands: frozenset[str] = frozenset(),
    heads: tuple[int, int] = (6, 64),
) -> str:
    auto = kernel("auto", shape(*heads), demands)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        name: str = auto.choose(where, window, encoding(pos, heads[0]))
        picked, _ = auto.mask(where, window, encoding(pos, heads[0]))
    assert type(picked).__name__.lower() == name
    return name


def behind(past: int, count: int) -> Where:
    return Where.after(past, past, count, "cpu")


PACKED = Where.packed(torch.arange(2048)[None] // 100)
CHOICES = [
    ("sdpa", call(Where.rows(64), window("full"))),
    ("reference", call(Where.rows(64), window("full"), low=True)),
    ("reference", call(Where.rows(1024), window("full"), low=True, heads=(4, 32))),
    ("sdpa", call(Where.rows(2048), window("full"), low=True)),  # the reference kernel would need more memory
    # The only kernel that can compute it.
    ("reference", call(Where.rows(2048), window("full"), low=True, demands=frozenset({"sink"}))),
    ("sdpa", call(Where.rows(64), window("sliding", size=32))),
    ("reference", call(Where.rows(64), window("sliding", size=32), low=True)),
    ("banded", call(Where.rows(512), window("sliding", size=32))),
    ("banded", call(Where.rows(512), window("sliding", size=32), low=True)),
    ("banded", call(Where.rows(512), window("sliding", size=32), "alibi", low=True)),
    ("banded", call(Where.rows(4096), window("sliding", size=256), low=True, demands=frozenset({"decay"}))),
    ("sdpa", call(Where.rows(4096), window("sliding", size=8192))),
    ("reference", call(Where.rows(1024), window("full"), "alibi", low=True)),
    ("sdpa", call(PACKED, window("full"), low=True)),
    ("banded", call(PACKED, window("sliding", size=64), low=True)),
    ("sdpa", call(behind(500, 1), window("full"))),  # a single token after a cache
    ("reference", call(behind(500, 1), window("full"), low=True)),
    ("sdpa", call(behind(31, 1), window("sliding", size=32))),
    ("reference", call(behind(31, 1), window("sliding", size=32), low=True)),
    ("banded", call(behind(256, 2048), window("sliding", size=256))),
]


@pytest.mark.parametrize(("expected", "given_"), CHOICES, ids=range(len(CHOICES)))
def test_auto_chooses_the_cheapest_kernel(expected: str, given_: Any) -> None:
    assert chosen(*given_.args, **given_.kwargs) == expected


def test_auto_on_other_devices_prefers_kernels_without_square_tensors() -> None:
    rows = Where.rows(2048, "meta")
    assert chosen(rows, window("full")) == "sdpa"
    assert chosen(rows, window("sliding", size=4096)) == "sdpa", "it sees the full row: no mask"
    assert chosen(rows, window("sliding", size=64)) == "banded"
    assert chosen(rows, window("full"), demands=frozenset({"softcap"})) == "reference"
    packed = Where(rows.q_pos, rows.k_pos, rows.q_pos, rows.k_pos)
    assert chosen(packed, window("full")) == "sdpa"


@settings(max_examples=10)
@given(given_=problems(), window=windows, pos=st.sampled_from(["none", "alibi"]), low=st.booleans())
def test_auto_equals_the_reference(given_: Problem, window: Window, pos: str, low: bool) -> None:
    n_head = given_.inputs["q"].shape[2]
    asked = {key for key in ("sink", "decay") if key in given_.inputs} | ({"softcap"} if given_.softcap else set())
    auto, bias = kernel("auto", shape(n_head), frozenset(asked)), encoding(pos, n_head).double()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        mask = auto.mask(given_.where, window, bias)
    auto.mask = lambda *args: mask  # type: ignore[method-assign]
    same(given_.run(auto, window, bias), given_.run(kernel("reference", shape(n_head)), window, bias))


# On a GPU


def worst(a: Tensor, b: Tensor) -> float:
    """The largest difference in units of the root mean square."""
    return ((a.cpu().double() - b.double()).abs().max() / b.double().pow(2).mean().sqrt()).item()


@cuda
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)], ids=str)
@pytest.mark.parametrize("pos", ["none", "alibi"])
@pytest.mark.parametrize("sees", [window("full"), window("sliding", size=100)], ids=str)
@pytest.mark.parametrize("name", ["reference", "sdpa", "banded", "flex", "flash", "auto"])
def test_kernels_on_cuda_equal_the_reference(
    name: str, sees: Window, pos: str, dtype: torch.dtype, bound: float, compiled: bool
) -> None:
    """Forward and gradients; bounds in units of each tensor's root mean square: bf16 has 8 bits, and TF32 is off."""
    fast = kernel(name, shape(4, 64))
    if reason := fast.rejects(sees, encoding(pos, 4), "cuda"):
        pytest.skip(reason)
    if name == "flash" and dtype == torch.float32:
        pytest.skip("flash computes in bf16")
    given_ = problem((4, 2), (300, 300), (64, 64))
    low = {key: x.to(dtype) for key, x in given_.inputs.items()}
    expected = Problem(given_.where, {key: x.double() for key, x in low.items()}, 0.125, 0.0).run(
        kernel("reference", shape(4, 64)), sees, encoding(pos, 4)
    )
    on_gpu = Problem(Where.rows(300, "cuda"), {key: x.cuda() for key, x in low.items()}, 0.125, 0.0)
    if compiled:
        torch._dynamo.reset()
        fast.forward = torch.compile(fast.forward, fullgraph=True)  # type: ignore[method-assign]
    found = on_gpu.run(fast, sees, encoding(pos, 4).cuda())
    for key in expected:
        assert worst(found[key], expected[key]) < bound, key


# The benchmarks' command lines


@pytest.mark.parametrize(
    ("module", "arguments", "reason"),
    [
        ("kernels", ["--rounds", "0"], "at least 1"),
        ("kernels", ["--kernel", "fast"], "'reference', 'sdpa', 'banded', 'flex', 'flash'"),
        ("kernels", ["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
        ("window", ["--longest", "100"], "512"),
        ("window", ["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
        ("window", ["--dtype", "fp8"], "--help"),
    ],
)
def test_benchmarks_reject_wrong_flags_in_one_line(
    module: str, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"benchmarks.{module}").main
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("gptx: ") and err.count("\n") == 1 and reason in err


@pytest.mark.full
@pytest.mark.parametrize(
    ("module", "arguments", "cells"),
    [
        ("kernels", "--device cpu --context 64 512 --window 0 32 --heads 4x32 --tokens 512 --rounds 1 --fit", 16),
        ("window", "--longest 512 --tokens 512 --rounds 1 --seconds 0 --device cpu", 3),
    ],
)
def test_kernel_benchmarks_run(module: str, arguments: str, cells: int, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments.split(), "--json", str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert len(found["cells"]) == cells
    assert "auto" in done.stdout and found["hardware"]["name"] in done.stdout
