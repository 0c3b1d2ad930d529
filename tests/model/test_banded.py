"""The banded kernel equals the reference kernel, in memory that is linear in the context."""

from typing import Any

import pytest
import torch
from helpers_kernel import Plain, Problem, encoding, kernel, problem, problems, same, shape, windows
from helpers_model import arm, rejected, tiny, window
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gptx.geometry.attention_view import Score
from gptx.model.build import build
from gptx.window.base import Window


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
