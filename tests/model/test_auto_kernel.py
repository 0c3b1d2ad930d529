"""The kernel that `auto` chooses."""

from typing import Any
from unittest.mock import call

import pytest
import torch
from helpers_kernel import Problem, encoding, kernel, problems, same, shape, windows
from helpers_model import window
from hypothesis import given, settings
from hypothesis import strategies as st

from gptx.geometry.visibility import Where
from gptx.window.base import Window


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
