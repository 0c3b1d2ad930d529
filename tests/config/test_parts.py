"""Schedules, the plan of a batch, a run's identity, generation, and what each part refuses."""

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers_model import (
    CONTEXT,
    VOCAB,
    advice,
    arm,
    model_of,
    one_thread,  # noqa: F401 - a fixture
    options,
    random_model,
    refused,
    tiny,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import gptx
from gptx.config.instantiate import part
from gptx.config.overrides import conf_dir
from gptx.errors import ConfigError
from gptx.model.build import build, remarks
from gptx.model.gpt import GPT
from gptx.model.sampling import pick, text, tokens
from gptx.strategy.batch_plan import BatchPlan
from gptx.tokenizer.byte import Byte

# Schedules

Schedule = Callable[[int, int], float]
FRACTIONS = st.floats(0, 0.5)


def schedule(name: str, **values: float) -> Schedule:
    """A schedule on disk; what it does not know of the values is left out."""
    cfg = OmegaConf.load(conf_dir() / "schedule" / f"{name}.yaml")
    assert isinstance(cfg, DictConfig)
    made: Schedule = part(OmegaConf.merge(cfg, {k: v for k, v in values.items() if k in cfg}))
    return made


every_schedule = pytest.mark.parametrize("name", options("schedule"))


@every_schedule
@settings(max_examples=60)
@given(
    data=st.data(), max_steps=st.integers(1, 3000), warmup=st.floats(0, 1), decay=st.floats(0, 1), final=st.floats(0, 1)
)
def test_a_schedule_is_a_fraction_of_the_peak(
    name: str, data: st.DataObject, max_steps: int, warmup: float, decay: float, final: float
) -> None:
    rate = schedule(name, warmup=warmup, decay=decay, final=final)
    step = data.draw(st.integers(0, max_steps))
    assert 0 <= rate(step, max_steps) <= 1
    if step < max_steps:
        assert rate(step, max_steps) > 0 or final == 0, "a step without effect"


@every_schedule
@settings(max_examples=40)
@given(max_steps=st.integers(1, 300), warmup=FRACTIONS, decay=FRACTIONS, final=st.floats(0, 1))
def test_a_schedule_rises_then_never_rises_again(
    name: str, max_steps: int, warmup: float, decay: float, final: float
) -> None:
    rate = schedule(name, warmup=warmup, decay=decay, final=final)
    curve = [rate(step, max_steps) for step in range(max_steps + 1)]
    top = math.ceil(warmup * max_steps)
    rising, rest = curve[:top], curve[top:]
    assert all(a < b for a, b in pairwise(rising))
    assert all(math.isclose(r, (i + 1) / (warmup * max_steps + 1)) for i, r in enumerate(rising))
    if top == warmup * max_steps < (1 - decay) * max_steps:
        assert rest[0] == 1, "the peak itself is reached"
    assert all(a >= b - 1e-12 for a, b in pairwise(rest))


@settings(max_examples=60)
@given(max_steps=st.integers(2, 3000), warmup=FRACTIONS, decay=FRACTIONS, final=st.floats(0, 1))
def test_schedules_end_where_they_say(max_steps: int, warmup: float, decay: float, final: float) -> None:
    for name in ("cosine", "wsd"):
        rate = schedule(name, warmup=warmup, decay=decay, final=final)
        assert rate(max_steps, max_steps) == pytest.approx(final, abs=1e-12), name
    assert schedule("constant", warmup=warmup)(max_steps, max_steps) == 1


@settings(max_examples=60)
@given(max_steps=st.integers(100, 3000), warmup=FRACTIONS, decay=FRACTIONS, final=st.floats(0, 1), way=st.floats(0, 1))
def test_schedules_follow_their_formulas(max_steps: int, warmup: float, decay: float, final: float, way: float) -> None:
    cosine = schedule("cosine", warmup=warmup, final=final)
    middle = (warmup * max_steps + max_steps) / 2
    if middle.is_integer():
        assert cosine(int(middle), max_steps) == pytest.approx((1 + final) / 2)
    wsd = schedule("wsd", warmup=warmup, decay=decay, final=final)
    step, fall = round(way * max_steps), (1 - decay) * max_steps  # fall: the plateau's end
    if decay * max_steps < 1:  # it falls between two steps
        return
    if math.ceil(warmup * max_steps) <= step <= fall:
        assert wsd(step, max_steps) == pytest.approx(1, abs=1e-6)
    if step > fall:
        expected = final + (1 - final) * (1 - math.sqrt((step - fall) / (decay * max_steps)))
        assert wsd(step, max_steps) == pytest.approx(expected, abs=1e-6)


@every_schedule
@settings(max_examples=60)
@given(data=st.data(), warmup=st.floats(0.02, 0.5), decay=st.floats(0.02, 0.5), final=st.floats(0, 1))
def test_a_schedule_has_no_jump(name: str, data: st.DataObject, warmup: float, decay: float, final: float) -> None:
    """Over a million steps, two neighbours differ by next to nothing, also where one phase meets the next."""
    rate, max_steps = schedule(name, warmup=warmup, decay=decay, final=final), 1_000_000
    near = data.draw(st.sampled_from([0, round(warmup * max_steps), round((1 - decay) * max_steps), max_steps]))
    step = min(max(0, near + data.draw(st.integers(-3, 3))), max_steps - 1)
    assert abs(rate(step + 1, max_steps) - rate(step, max_steps)) < 0.008  # 1 - sqrt falls by 1/sqrt(20000) at first


@every_schedule
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_share_out_of_range_is_refused(name: str, value: float) -> None:
    known = OmegaConf.load(conf_dir() / "schedule" / f"{name}.yaml")
    keys = [key for key in ("warmup", "decay", "final") if key in known]
    assert keys
    for key in keys:
        message = refused(schedule(name, **{key: value}), 0, 10)
        assert f"schedule.{key}={value}: expected a fraction, 0 to 1" in message
        schedule(name, **{key: 1.0})(0, 10)


# The plan


@functools.cache
def _default() -> DictConfig:
    return gptx.compose()


def default(**trainer: Any) -> DictConfig:
    """The default config, to change at will."""
    cfg = OmegaConf.create(OmegaConf.to_container(_default()))
    assert isinstance(cfg, DictConfig)
    cfg.trainer.update(trainer)
    return cfg


BATCHES = st.integers(1, 600)


@settings(max_examples=100)
@given(batch=BATCHES, processes=st.integers(1, 80), micro=st.integers(0, 80))
def test_the_global_batch_stays_whole(batch: int, processes: int, micro: int) -> None:
    cfg = default(batch_size=batch, micro_batch=micro)
    try:
        plan = BatchPlan.of(cfg, processes)
    except ConfigError:
        assert batch % processes or (batch // processes) % micro
        return
    assert plan.rank_batch * processes == plan.batch_size == batch
    assert plan.rank_batch % plan.micro_batch == 0
    assert plan.micro_batch == (micro or plan.rank_batch)


@settings(max_examples=100)
@given(batch=BATCHES, processes=st.integers(2, 80))
def test_a_batch_that_cannot_be_split_is_told_what_could(batch: int, processes: int) -> None:
    assume(batch % processes)
    message = refused(BatchPlan.of, default(batch_size=batch), processes)
    assert f"trainer.batch_size={batch} " in message and f"{processes} processes" in message
    use = advice(message)
    assert 1 <= use["strategy.nproc"] < processes
    assert BatchPlan.of(default(batch_size=batch), use["strategy.nproc"]).batch_size == batch
    assert BatchPlan.of(default(batch_size=use["trainer.batch_size"]), processes).rank_batch >= 1
    assert abs(use["trainer.batch_size"] - batch) <= max(processes / 2, processes - batch), "the nearest that would do"


def test_processes_that_share_rows_are_counted_as_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    message = refused(BatchPlan.of, default(batch_size=6), 4, 2)
    assert "4 groups of 2 processes" in message
    assert advice(message) == {"strategy.nproc": 6, "trainer.batch_size": 8}
    monkeypatch.setenv("RANK", "0")  # torchrun has no such key
    assert "use --nproc-per-node=6, or" in refused(BatchPlan.of, default(batch_size=6), 4, 2)


@settings(max_examples=100)
@given(share=st.integers(1, 300), processes=st.integers(1, 8), micro=st.integers(1, 320))
def test_a_micro_batch_that_does_not_divide_is_told_what_does(share: int, processes: int, micro: int) -> None:
    assume(share % micro)
    message = refused(BatchPlan.of, default(batch_size=share * processes, micro_batch=micro), processes)
    assert f"trainer.micro_batch={micro} " in message and f"the {share} sequences" in message
    use = int(message.rpartition("use ")[2])
    assert 1 <= use <= micro, "what fits in memory must go on fitting"
    assert BatchPlan.of(default(batch_size=share * processes, micro_batch=use), processes).micro_batch == use


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
    assert refused(gptx.compose, [f"{key}={value}"]) == f"{key}={value}: expected {expected}"
    limit = expected.rpartition(" ")[2]
    gptx.compose([f"{key}={1e-3 if key == 'optim.lr' else 2**63 - 1 if '^' in limit else limit}"])


# Choosing the next token


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SEEDS = st.integers(0, 10_000)


def some_logits(seed: int, batch: int = 8, vocab: int = 20) -> Tensor:
    return 3 * torch.randn(batch, vocab, generator=stream(seed))


@settings(max_examples=60)
@given(seed=SEEDS, draw=SEEDS, temperature=st.floats(0.05, 5), top_p=st.floats(0.01, 1), top_k=st.integers(0, 30))
def test_greedy_is_greedy_in_all_its_spellings(
    seed: int, draw: int, temperature: float, top_p: float, top_k: int
) -> None:
    logits = some_logits(seed)
    best = logits.argmax(-1, keepdim=True)
    assert torch.equal(pick(logits, 0, top_k, top_p, stream(draw)), best)
    assert torch.equal(pick(logits, temperature, 1, top_p, stream(draw)), best)
    assert torch.equal(pick(logits, temperature, top_k, 1e-9, stream(draw)), best)
    assert torch.equal(pick(logits, 1e-6, top_k, top_p, stream(draw)), best)


@settings(max_examples=60)
@given(seed=SEEDS, draw=SEEDS, top_k=st.integers(1, 30), top_p=st.floats(0.01, 0.999), temperature=st.floats(0.1, 5))
def test_top_k_and_top_p_keep_the_likeliest(seed: int, draw: int, top_k: int, top_p: float, temperature: float) -> None:
    logits = some_logits(seed)
    before = logits.clone()
    chosen = pick(logits, temperature, top_k, 1.0, stream(draw))
    assert chosen.shape == (8, 1)
    rank = (logits > logits.gather(1, chosen)).sum(1)  # how many are likelier
    assert (rank < top_k).all()
    chosen = pick(logits, temperature, 0, top_p, stream(draw))
    probs = (logits / temperature).double().softmax(-1)
    likelier = torch.where(probs > probs.gather(1, chosen), probs, 0.0).sum(1)
    assert (likelier < top_p + 1e-6).all(), "the smallest set that sums to top_p has no place for it"
    assert torch.equal(logits, before), "the caller's logits are left alone"


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "expected"),
    [
        (1.0, 0, 1.0, [0.4, 0.3, 0.2, 0.1]),
        (0.5, 0, 1.0, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (1.0, 2, 1.0, [4 / 7, 3 / 7, 0, 0]),
        (1.0, 0, 0.75, [4 / 9, 3 / 9, 2 / 9, 0]),
        (1.0, 0, 0.65, [4 / 7, 3 / 7, 0, 0]),
        (1.0, 9, 1.0, [0.4, 0.3, 0.2, 0.1]),
        (1.0, 3, 0.75, [4 / 7, 3 / 7, 0, 0]),  # top_p is of what top_k left: 4/9 + 3/9 is more than that
    ],
)
def test_tokens_are_drawn_as_often_as_they_should(
    temperature: float, top_k: int, top_p: float, expected: list[float]
) -> None:
    many = 40_000
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(many, 4)
    counts = torch.bincount(pick(logits, temperature, top_k, top_p, stream()).flatten(), minlength=4)
    for count, p in zip(counts.tolist(), expected, strict=True):
        assert abs(count - many * p) <= 5 * math.sqrt(many * p * (1 - p))


# Generation


def generator(pos: str, window: str = "full", context: int = CONTEXT) -> GPT:
    return random_model(tiny(arm(pos=pos, window=window), context=context))


@pytest.mark.parametrize("window", options("window"))
@pytest.mark.parametrize("pos", options("pos"))
@settings(max_examples=3)
@given(prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=2 * CONTEXT), seed=SEEDS)
def test_the_cache_changes_no_token(pos: str, window: str, prompt: list[int], seed: int) -> None:
    """Also past the trained context, where the newest half is taken up again, and for a prompt longer than it."""
    model, count = model_of(arm(attention="gqa", pos=pos, window=window)), 2 * CONTEXT + 5
    cached = list(tokens(model, prompt, count, seed=seed))
    assert cached == list(tokens(model, prompt, count, seed=seed, cached=False))
    assert len(cached) == count and all(0 <= token < VOCAB for token in cached)


@pytest.mark.parametrize("pos", ["rope", "learned"])
@pytest.mark.parametrize("context", [1, 2, 3])
def test_the_shortest_contexts_generate_too(pos: str, context: int) -> None:
    model = generator(pos, context=context)
    assert list(tokens(model, [1, 2, 3, 4], 9)) == list(tokens(model, [1, 2, 3, 4], 9, cached=False))


def test_greedy_generation_is_the_argmax_of_the_forward() -> None:
    model, seen = generator("learned"), [3, 1]
    for token in tokens(model, [3, 1], CONTEXT - 2, temperature=0):
        with torch.no_grad():
            assert token == model(torch.tensor([seen]))[0, -1].argmax()
        seen.append(token)
    assert len(seen) == CONTEXT
    assert (
        list(tokens(model, [3, 1], 10, temperature=0)) == list(tokens(model, [3, 1], 10, top_k=1, seed=9)) == seen[2:]
    )


def test_a_seed_is_a_text_and_stop_ends_it() -> None:
    model = generator("rope")
    first = list(tokens(model, [1], 40, seed=0, temperature=1.5))
    assert first == list(tokens(model, [1], 40, seed=0, temperature=1.5))
    assert first != list(tokens(model, [1], 40, seed=1, temperature=1.5))
    torch.manual_seed(5)
    assert first == list(tokens(model, [1], 40, seed=0, temperature=1.5)), "the global generator plays no part"
    stop = first[7]
    assert list(tokens(model, [1], 40, seed=0, temperature=1.5, stop=[stop])) == first[: first.index(stop)]
    assert list(tokens(model, [1], 0)) == []


def test_generation_leaves_dropout_off() -> None:
    model = random_model(tiny(arm(pos="rope"), dropout=0.5)).train()
    assert list(tokens(model, [1], 20)) == list(tokens(model.train(), [1], 20))


def test_no_token_is_drawn_that_the_tokenizer_has_not() -> None:
    """A vocabulary padded beyond the tokenizer's: without the bound, some of the rest do come."""
    model = generator("rope")
    assert max(tokens(model, [1], 80, temperature=9.0)) >= 6
    assert max(tokens(model, [1], 80, temperature=9.0, n_vocab=6)) < 6


def test_text_comes_out_in_whole_characters() -> None:
    model = build(tiny(), Byte.n_vocab).double()
    pieces = list(text(model, Byte(), "né", 60, seed=3, temperature=1.0))
    ids = list(tokens(model, list("né".encode()), 60, seed=3, temperature=1.0, stop=[Byte.eot]))
    assert "".join(pieces) == bytes(ids).decode("utf-8", "replace")
    assert list(text(model, Byte(), "", 5, temperature=0)), "no prompt: it begins a document"


# Refusals: what was given, and what would work, which then works


def with_model(**model: Any) -> DictConfig:
    return tiny(arm(attention="mha", pos="none"), **model)


@settings(max_examples=25)
@given(n_head=st.integers(1, 12), groups=st.integers(-1, 14))
def test_kv_heads_that_do_not_divide(n_head: int, groups: int) -> None:
    cfg = tiny(arm(attention="gqa"), n_head=n_head, d_model=2 * n_head)
    cfg.attention.n_kv_head = groups
    if groups > 0 and n_head % groups == 0:
        assert build(cfg, VOCAB).blocks[0].attention.k.out_features == 2 * groups
        return
    message = refused(build, cfg, VOCAB)
    assert f"attention.n_kv_head={groups} " in message and f"model.n_head={n_head}:" in message
    fits = [int(fit) for fit in message.partition("one of ")[2].split(", ")]
    assert fits == [g for g in range(1, n_head + 1) if n_head % g == 0]
    for fit in fits:
        cfg.attention.n_kv_head = fit
        build(cfg, VOCAB)


@settings(max_examples=25)
@given(d_model=st.integers(1, 40), n_head=st.integers(2, 9))
def test_a_width_that_is_not_divisible_by_the_heads(d_model: int, n_head: int) -> None:
    assume(d_model % n_head)
    message = refused(build, tiny(arm(attention="mha", pos="rope"), d_model=d_model, n_head=n_head), VOCAB)
    assert f"model.d_model={d_model} " in message and f"model.n_head={n_head};" in message
    use = int(message.rpartition("model.d_model=")[2])
    cfg = tiny(arm(attention="mha", pos="rope"), d_model=use, n_head=n_head)
    cfg.attention.n_kv_head = n_head
    build(cfg, VOCAB)


@settings(max_examples=15)
@given(half=st.integers(0, 5), n_head=st.integers(1, 6))
def test_an_odd_head_under_rope(half: int, n_head: int) -> None:
    cfg = tiny(arm(attention="mqa", pos="rope"), d_model=(2 * half + 1) * n_head, n_head=n_head)
    message = refused(build, cfg, VOCAB)
    assert f"given {2 * half + 1} (model.d_model={cfg.model.d_model} / model.n_head={n_head})" in message
    cfg.model.update({"d_model": int(message.rpartition("model.d_model=")[2])})
    build(cfg, VOCAB)


@pytest.mark.parametrize("n_head", [1, 3, 5])
def test_an_odd_width_under_sinusoids(n_head: int) -> None:
    cfg = tiny(arm(attention="mqa", pos="sinusoidal"), d_model=3 * n_head, n_head=n_head)
    message = refused(build, cfg, VOCAB)
    assert f"even model.d_model, given {3 * n_head}; use " in message
    cfg.model.update({key.partition(".")[2]: value for key, value in advice(message).items()})
    build(cfg, VOCAB)


@pytest.mark.parametrize("size", [0, -3])
def test_a_window_that_sees_nothing(size: int) -> None:
    cfg = tiny(arm(window="sliding"))
    cfg.window.size = size
    message = refused(build, cfg, VOCAB)
    assert f"window.size={size}: expected at least 1" in message
    cfg.window.size = 1
    assert build(cfg, VOCAB)(torch.tensor([[1, 2, 3]])).isfinite().all()


@pytest.mark.parametrize("dropout", [1.5, 1.0, -0.1])
def test_dropout_out_of_range(dropout: float) -> None:
    assert f"model.dropout={dropout}: expected 0 <= dropout < 1" in refused(build, tiny(dropout=dropout), VOCAB)
    build(tiny(dropout=0.0), VOCAB)
    build(tiny(dropout=0.99), VOCAB)


@pytest.mark.parametrize("key", ["n_layer", "n_head", "d_model", "context"])
@pytest.mark.parametrize("value", [0, -4])
def test_sizes_below_one(key: str, value: int) -> None:
    assert f"model.{key}={value}: expected at least 1" in refused(build, with_model(**{key: value}), VOCAB)


def test_a_vocabulary_smaller_than_the_tokenizers() -> None:
    message = refused(build, tiny(vocab_size=100), 257)
    assert "model.vocab_size=100 " in message and "the tokenizer's 257; use model.vocab_size=0 " in message
    assert build(tiny(vocab_size=0), 257).embed.num_embeddings == 257
    assert build(tiny(vocab_size=300), 257).embed.num_embeddings == 300, "more than it has is padding"


@pytest.mark.parametrize(("key", "value"), [("ratio", 0.0), ("ratio", -1.0), ("multiple_of", 0)])
def test_a_hidden_layer_without_width(key: str, value: float) -> None:
    cfg = tiny(arm(ffn="swiglu"))
    cfg.ffn[key] = value
    assert f"ffn.{key}={value}" in refused(build, cfg, VOCAB)


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("it is there")
    cfg = tiny()
    cfg.device.type = "cuda"
    assert refused(build, cfg, VOCAB) == "device=cuda is not available: this machine has cpu"


def test_strategies_and_processes() -> None:
    single = OmegaConf.load(conf_dir() / "strategy" / "single.yaml")
    single.nproc = 2
    message = refused(part, single)
    assert "strategy.nproc=2" in message and "use strategy=ddp" in message
    ddp = OmegaConf.load(conf_dir() / "strategy" / "ddp.yaml")
    ddp.nproc = 2
    part(ddp)
    ddp.nproc = -1
    assert "strategy.nproc=-1: expected 1 or more" in refused(part, ddp)


@pytest.mark.parametrize("value", ["nan", ".inf", "1e300", "1e-300", "99999999999999999999"])
@pytest.mark.parametrize(
    "key", ["attention.softcap", "pos.theta", "norm.eps", "ffn.ratio", "model.d_model", "optim.lr"]
)
def test_numbers_that_no_part_survives_are_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gptx.compose([f"{key}={value}"])
    message = str(caught.value)
    assert message.startswith(f"{key}=") and "\n" not in message and len(message) < 160


def test_seed_may_be_larger_than_other_numbers() -> None:
    assert gptx.compose([f"seed={2**63 - 1}"]).seed == 2**63 - 1


@pytest.mark.parametrize("norm", options("norm"))
def test_a_negative_epsilon_is_refused(norm: str) -> None:
    cfg = tiny(arm(norm=norm))
    cfg.norm.eps = -1.0
    assert refused(build, cfg, VOCAB) == "norm.eps=-1: expected 0 or more, such as 1e-5"


def test_documents_that_would_reach_each_other_are_refused() -> None:
    cfg = tiny(arm(ffn="moe"))
    cfg.data.document_mask = True
    build(cfg, VOCAB)
    cfg.ffn.capacity = 1.0
    assert "ffn.capacity=1 " in refused(build, cfg, VOCAB)


def test_what_has_no_effect_in_a_model_is_said() -> None:
    def said(window: str, pos: str = "rope", **keys: Any) -> list[str]:
        cfg = tiny(arm(window=window, pos=pos))
        for key, value in keys.items():
            cfg.window[key] = value
        return remarks(cfg, build(cfg, VOCAB))

    assert said("full") == said("sliding") == said("alternating", "irope") == said("chunked") == []
    assert "hides nothing" in said("sliding", size=CONTEXT)[0]
    assert "hides nothing" in said("alternating", pattern="GG")[0]
    assert "all layers are local" in said("sliding", "rope_dual")[0]
    assert "all layers are global" in said("full", "irope")[0]
