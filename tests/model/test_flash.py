"""The flash kernel: the arguments for the package give the result of the reference kernel."""

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from helpers_kernel import Learned, Odd, Plain, Problem, encoding, kernel, problem, shape
from helpers_model import rejected, window
from torch import Tensor

from gptx.geometry.visibility import Where
from gptx.window.base import Window


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
    reason["no document mask"] = rejected(flash.mask, given_.where, full, plain)
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
