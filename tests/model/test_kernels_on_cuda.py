"""Kernels on a GPU equal the reference kernel on the CPU; skipped without a GPU."""

import pytest
import torch
from helpers_kernel import Problem, encoding, kernel, problem, shape
from helpers_model import window
from torch import Tensor

from gptx.geometry.visibility import Where
from gptx.window.base import Window

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def worst(a: Tensor, b: Tensor) -> float:
    """The largest |a - b| / (|b| + r), r being the root mean square of b. The first tokens see few others: their
    outputs are much larger than r, and so is what rounding changes."""
    a, b = a.cpu().double(), b.double()
    return ((a - b).abs() / (b.abs() + b.pow(2).mean().sqrt())).max().item()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-4), (torch.bfloat16, 0.1)], ids=str)
@pytest.mark.parametrize("pos", ["none", "alibi"])
@pytest.mark.parametrize("sees", [window("full"), window("sliding", size=100)], ids=str)
@pytest.mark.parametrize("name", ["reference", "sdpa", "banded", "flex", "flash", "auto"])
def test_kernels_on_cuda_equal_the_reference(
    name: str, sees: Window, pos: str, dtype: torch.dtype, bound: float, compiled: bool
) -> None:
    """Forward and gradients: bf16 has 8 bits (on a CPU the reference kernel differs by 0.04), and TF32 is off."""
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
    torch.compiler.reset()  # after eight cases torch would compile a function no more
    if compiled:
        fast.forward = torch.compile(fast.forward, fullgraph=True)  # type: ignore[method-assign]
    found = on_gpu.run(fast, sees, encoding(pos, 4).cuda())
    for key in expected:
        assert worst(found[key], expected[key]) < bound, key
