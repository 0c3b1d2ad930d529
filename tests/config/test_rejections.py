"""Rejected values of each part of a config: the message names the given value and what works."""

import functools
from typing import Any

import pytest
import torch
from composed import COMPOSITIONS
from helpers_model import CONTEXT, VOCAB, advice, arm, options, rejected, tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from gptx.config.compose import compose as compose_with
from gptx.config.instantiate import part
from gptx.config.overrides import conf_dir
from gptx.errors import ConfigError
from gptx.model.build import build, remarks

compose = functools.partial(compose_with, compositions=COMPOSITIONS)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trainer.max_steps", "0", "at least 1"),
        ("trainer.batch_size", "0", "at least 1"),
        ("trainer.micro_batch", "-1", "at least 0"),
        ("trainer.clip", "-0.5", "at least 0"),
        ("trainer.eval_every", "0", "at least 1"),
        ("trainer.val_tokens", "-1", "at least 0"),
        ("trainer.patience", "-1", "at least 0"),
        ("trainer.max_skips", "-1", "at least 0"),
        ("runtime.val_batch", "0", "at least 1"),
        ("runtime.log_every", "0", "at least 1"),
        ("runtime.keep", "0", "at least 1"),
        ("runtime.threads", "-1", "at least 0"),
        ("runtime.sample_tokens", "-1", "at least 0"),
        ("runtime.until", "-1", "at least 0"),
        ("sweep.jobs", "-1", "at least 0"),
        ("sweep.grace", "-1.5", "at least 0"),
        ("seed", "-1", "at least 0"),
        ("seed", str(2**63), "less than 2^63"),
        ("data_seed", "-1", "at least 0"),
        ("optim.lr", "0.0", "more than 0"),
    ],
)
def test_number_out_of_range_is_rejected(key: str, value: str, expected: str) -> None:
    assert rejected(compose, [f"{key}={value}"]) == f"{key}={value}: expected {expected}"
    limit = expected.rpartition(" ")[2]
    compose([f"{key}={1e-3 if key == 'optim.lr' else 2**63 - 1 if '^' in limit else limit}"])


def with_model(**model: Any) -> DictConfig:
    return tiny(arm(attention="mha", pos="none"), **model)


@settings(max_examples=25)
@given(n_head=st.integers(1, 12), groups=st.integers(-1, 14))
def test_rejects_kv_heads_that_do_not_divide_heads(n_head: int, groups: int) -> None:
    cfg = tiny(arm(attention="gqa"), n_head=n_head, d_model=2 * n_head)
    cfg.attention.n_kv_head = groups
    if groups > 0 and n_head % groups == 0:
        assert build(cfg, VOCAB).blocks[0].attention.k.out_features == 2 * groups
        return
    message = rejected(build, cfg, VOCAB)
    assert f"attention.n_kv_head={groups} " in message and f"model.n_head={n_head}:" in message
    fits = [int(fit) for fit in message.partition("one of ")[2].split(", ")]
    assert fits == [g for g in range(1, n_head + 1) if n_head % g == 0]
    for fit in fits:
        cfg.attention.n_kv_head = fit
        build(cfg, VOCAB)


@settings(max_examples=25)
@given(d_model=st.integers(1, 40), n_head=st.integers(2, 9))
def test_rejects_width_not_divisible_by_heads(d_model: int, n_head: int) -> None:
    assume(d_model % n_head)
    message = rejected(build, tiny(arm(attention="mha", pos="rope"), d_model=d_model, n_head=n_head), VOCAB)
    assert f"model.d_model={d_model} " in message and f"model.n_head={n_head};" in message
    use = int(message.rpartition("model.d_model=")[2])
    cfg = tiny(arm(attention="mha", pos="rope"), d_model=use, n_head=n_head)
    cfg.attention.n_kv_head = n_head
    build(cfg, VOCAB)


@settings(max_examples=15)
@given(half=st.integers(0, 5), n_head=st.integers(1, 6))
def test_rope_rejects_odd_head_dim(half: int, n_head: int) -> None:
    cfg = tiny(arm(attention="mqa", pos="rope"), d_model=(2 * half + 1) * n_head, n_head=n_head)
    message = rejected(build, cfg, VOCAB)
    assert f"given {2 * half + 1} (model.d_model={cfg.model.d_model} / model.n_head={n_head})" in message
    cfg.model.update({"d_model": int(message.rpartition("model.d_model=")[2])})
    build(cfg, VOCAB)


@pytest.mark.parametrize("n_head", [1, 3, 5])
def test_sinusoidal_rejects_odd_width(n_head: int) -> None:
    cfg = tiny(arm(attention="mqa", pos="sinusoidal"), d_model=3 * n_head, n_head=n_head)
    message = rejected(build, cfg, VOCAB)
    assert f"even model.d_model, given {3 * n_head}; use " in message
    cfg.model.update({key.partition(".")[2]: value for key, value in advice(message).items()})
    build(cfg, VOCAB)


@pytest.mark.parametrize("size", [0, -3])
def test_rejects_window_below_one(size: int) -> None:
    cfg = tiny(arm(window="sliding"))
    cfg.window.size = size
    message = rejected(build, cfg, VOCAB)
    assert f"window.size={size}: expected at least 1" in message
    cfg.window.size = 1
    assert build(cfg, VOCAB)(torch.tensor([[1, 2, 3]])).isfinite().all()


@pytest.mark.parametrize("dropout", [1.5, 1.0, -0.1])
def test_rejects_dropout_out_of_range(dropout: float) -> None:
    assert f"model.dropout={dropout}: expected 0 <= dropout < 1" in rejected(build, tiny(dropout=dropout), VOCAB)
    build(tiny(dropout=0.0), VOCAB)
    build(tiny(dropout=0.99), VOCAB)


@pytest.mark.parametrize("key", ["n_layer", "n_head", "d_model", "context"])
@pytest.mark.parametrize("value", [0, -4])
def test_rejects_model_sizes_below_one(key: str, value: int) -> None:
    assert f"model.{key}={value}: expected at least 1" in rejected(build, with_model(**{key: value}), VOCAB)


def test_rejects_vocabulary_smaller_than_the_tokenizers() -> None:
    message = rejected(build, tiny(vocab_size=100), 257)
    assert "model.vocab_size=100 " in message and "the tokenizer's 257; use model.vocab_size=0 " in message
    assert build(tiny(vocab_size=0), 257).embed.num_embeddings == 257
    assert build(tiny(vocab_size=300), 257).embed.num_embeddings == 300, "more than it has is padding"


@pytest.mark.parametrize(("key", "value"), [("ratio", 0.0), ("ratio", -1.0), ("multiple_of", 0)])
def test_rejects_hidden_layer_without_width(key: str, value: float) -> None:
    cfg = tiny(arm(ffn="swiglu"))
    cfg.ffn[key] = value
    assert f"ffn.{key}={value}" in rejected(build, cfg, VOCAB)


def test_rejects_missing_device() -> None:
    if torch.cuda.is_available():
        pytest.skip("the device exists")
    cfg = tiny()
    cfg.device.type = "cuda"
    assert rejected(build, cfg, VOCAB) == "device=cuda is not available: this machine has cpu"


def test_rejects_number_of_processes() -> None:
    single = OmegaConf.load(conf_dir() / "strategy" / "single.yaml")
    single.nproc = 2
    message = rejected(part, single)
    assert "strategy.nproc=2" in message and "use strategy=ddp" in message
    ddp = OmegaConf.load(conf_dir() / "strategy" / "ddp.yaml")
    ddp.nproc = 2
    part(ddp)
    ddp.nproc = -1
    assert "strategy.nproc=-1: expected 1 or more" in rejected(part, ddp)


@pytest.mark.parametrize("value", ["nan", ".inf", "1e300", "1e-300", "99999999999999999999"])
@pytest.mark.parametrize(
    "key", ["attention.softcap", "pos.theta", "norm.eps", "ffn.ratio", "model.d_model", "optim.lr"]
)
def test_rejects_numbers_that_fp32_cannot_represent(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([f"{key}={value}"])
    message = str(caught.value)
    assert message.startswith(f"{key}=") and "\n" not in message and len(message) < 160


def test_seed_may_be_larger_than_other_numbers() -> None:
    assert compose([f"seed={2**63 - 1}"]).seed == 2**63 - 1


@pytest.mark.parametrize("norm", options("norm"))
def test_rejects_negative_epsilon(norm: str) -> None:
    cfg = tiny(arm(norm=norm))
    cfg.norm.eps = -1.0
    assert rejected(build, cfg, VOCAB) == "norm.eps=-1: expected 0 or more, such as 1e-5"


def test_rejects_expert_capacity_with_document_mask() -> None:
    cfg = tiny(arm(ffn="moe"))
    cfg.data.document_mask = True
    build(cfg, VOCAB)
    cfg.ffn.capacity = 1.0
    assert "ffn.capacity=1 " in rejected(build, cfg, VOCAB)


def test_remarks_name_options_without_effect() -> None:
    def remarks_of(window: str, pos: str = "rope", **keys: Any) -> list[str]:
        cfg = tiny(arm(window=window, pos=pos))
        for key, value in keys.items():
            cfg.window[key] = value
        return remarks(cfg, build(cfg, VOCAB))

    assert remarks_of("full") == remarks_of("sliding") == remarks_of("chunked") == []
    assert remarks_of("alternating", "irope") == []
    assert "hides nothing" in remarks_of("sliding", size=CONTEXT)[0]
    assert "hides nothing" in remarks_of("alternating", pattern="GG")[0]
    assert "all layers are local" in remarks_of("sliding", "rope_dual")[0]
    assert "all layers are global" in remarks_of("full", "irope")[0]
    assert remarks_of("full", "fire") == [], "it distinguishes layers, not windows"
