"""The flex kernel: its forward in eager mode, on a CPU, where it has no backward."""

from typing import Any

import pytest
import torch
from helpers_kernel import Learned, Odd, Plain, encoding, kernel, problem, same, shape
from helpers_model import window
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as flex_module

from gptx.window.base import Window


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
