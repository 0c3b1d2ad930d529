"""Properties that every positional encoding declares, sinusoids, and rejected numbers and sizes."""

import math
import re
from typing import Any

import pytest
import torch
from helpers_model import randomise, rejected
from helpers_pos import BIASES, ROPES, encoding, logits, normal
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("option", [*ROPES, *BIASES])
@settings(max_examples=10)
@given(far=st.integers(1, 200), to=st.integers(0, 2000), shift=st.integers(10, 10_000), seed=st.integers(0, 99))
def test_relative_encodings_ignore_absolute_positions(option: str, far: int, to: int, shift: int, seed: int) -> None:
    pos = encoding(option, heads=2)
    randomise(pos, seed)
    q, k = normal(1, 1, 4, 8, seed=seed), normal(1, 1, 2, 8, seed=seed + 1)
    query_at, key_at = torch.tensor([[to + far]]), torch.tensor([[to]])
    expected = logits(pos, q, k, query_at, key_at)
    moved = (logits(pos, q, k, query_at + shift, key_at + shift) - expected).abs().max()
    if pos.relative:
        assert moved < 1e-7
    else:
        assert option == "fire" and moved > 1e-11
    assert (logits(pos, q, k, query_at, query_at) - expected).abs().max() > 1e-9, "logits depend on the distance"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sinusoids_are_exact_at_large_positions(dtype: torch.dtype) -> None:
    pos, far = encoding("sinusoidal", scale=1.0), torch.tensor([[10**6]])
    found = pos.embed(torch.zeros(1, 1, 32, dtype=dtype), far)
    expected = pos.embed(torch.zeros(1, 1, 32, dtype=torch.float64), far)
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


# Rejections


@pytest.mark.parametrize(
    ("option", "keys", "wrong", "right"),
    [
        *((option, {"theta": 0.0}, "pos.theta=0: expected more than 0", "pos.theta=10000") for option in ROPES),
        ("rope_linear", {"factor": 0.5}, "pos.factor=0.5: expected at least 1", "pos.factor=4"),
        ("rope_ntk", {"factor": 0.5}, "pos.factor=0.5: expected at least 1", "pos.factor=4"),
        ("rope_yarn", {"factor": math.nan}, "pos.factor=nan: expected at least 1", "pos.factor=4"),
        ("rope_yarn", {"theta": 1.0}, "pos.theta=1: expected more than 1", "pos.theta=10000"),
        ("rope_yarn", {"original": -1}, "pos.original=-1: expected at least 0", "pos.original=12"),
        ("rope_yarn", {"beta_slow": 0.0}, "pos.beta_slow=0: expected more than 0", "pos.beta_slow=1"),
        ("rope_yarn", {"beta_fast": 0.5}, "pos.beta_fast=0.5: expected more than 1", "pos.beta_fast=32"),
        ("rope_llama3", {"original": -1}, "pos.original=-1: expected at least 0", "pos.original=12"),
        ("rope_llama3", {"low_freq_factor": -1.0}, "low_freq_factor=-1: expected at least 0", "low_freq_factor=1"),
        ("rope_llama3", {"high_freq_factor": 1.0}, "high_freq_factor=1: expected more than 1", "high_freq_factor=4"),
        ("rope_dual", {"global_theta": -1.0}, "pos.global_theta=-1: expected more than 0", "global_theta=1e+06"),
        ("xpos", {"scale_base": 0.0}, "pos.scale_base=0: expected more than 0", "pos.scale_base=512"),
        ("xpos", {"gamma": 0.0}, "pos.gamma=0: expected more than 0", "pos.gamma=0.4"),
        ("t5", {"buckets": 1}, "pos.buckets=1: expected at least 2", "pos.buckets=32"),
        ("t5", {"max_distance": 16}, "pos.max_distance=16: expected more than 16", "pos.max_distance=128"),
        ("fire", {"width": 0}, "pos.width=0: expected at least 1", "pos.width=32"),
        ("fire", {"c": 0.0}, "pos.c=0: expected more than 0", "pos.c=0.1"),
        ("fire", {"threshold": 0.0}, "pos.threshold=0: expected more than 0", "pos.threshold=0.25"),
    ],
)
def test_numbers_out_of_bounds_are_rejected(option: str, keys: dict[str, Any], wrong: str, right: str) -> None:
    message = rejected(lambda: encoding(option, **keys))
    assert wrong in message and message.endswith(f"such as {right.rpartition('=')[2]}")
    (key,) = keys
    encoding(option, **{key: type(keys[key])(float(right.rpartition("=")[2]))})


def test_kerple_has_two_forms() -> None:
    message = rejected(lambda: encoding("kerple", form="cubic"))
    assert message == "pos.form='cubic': expected log or power"


@pytest.mark.parametrize("option", [option for option in ROPES if option != "rope_partial"])
def test_rotary_encodings_reject_odd_heads_by_name(option: str) -> None:
    message = rejected(lambda: encoding(option, head_dim=3))
    assert f"pos={option} needs an even head_dim, given 3" in message and message.endswith("use model.d_model=16")


def test_ntk_rejects_a_single_frequency() -> None:
    message = rejected(lambda: encoding("rope_ntk", head_dim=2))
    assert "needs 4 or more rotated dims per head, given 2," in message
    encoding(re.findall(r"use pos=(rope_linear)", message)[0], head_dim=2)


def test_rotary_encodings_reject_heads_of_one_dim() -> None:
    assert "pos=rope_partial needs an even head_dim, given 1" in rejected(lambda: encoding("rope_partial", head_dim=1))
