"""Random inputs of kernels, and windows and encodings that no YAML file has."""

from dataclasses import dataclass, replace

import torch
from helpers_model import tiny_option, window
from hypothesis import strategies as st
from torch import Tensor, nn

from gptx.config.instantiate import part
from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


def shape(n_head: int = 4, dim: int = 8, dropout: float = 0.0) -> ModelShape:
    return ModelShape(1, n_head, n_head * dim, 64, 9, dropout, False)


def kernel(name: str, shape: ModelShape, demands: frozenset[str] = frozenset()) -> Kernel:
    found: Kernel = part(tiny_option("kernel", name), shape, demands)
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
        found: PositionalEncoding = part(tiny_option("pos", name), shape(n_head), 8, n_head)
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
    gates: int = 0,
) -> Problem:
    """``heads`` (H, G), ``tokens`` (Tq, Tk), ``dims`` (D, Dv); ``cuts``: where new documents start; None: one each;
    ``gates``: the width of the decay, G or H; 0: G."""
    (n_head, groups), (queries, keys), (dim, width) = heads, tokens, dims
    stream = torch.Generator().manual_seed(seed)
    sizes = {"q": (batch, queries, n_head, dim), "k": (batch, keys, groups, dim), "v": (batch, keys, groups, width)}
    sizes |= {key: {"sink": (n_head,), "decay": (batch, keys, gates or groups)}[key] for key in more}
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
        gates=draw(st.sampled_from([groups, groups * share])),
    )


windows = st.one_of(
    st.integers(1, 200).map(lambda size: window("sliding", size=size)),
    st.builds(Odd, st.integers(1, 90), st.integers(2, 5)),
)
