"""Heads and hidden units on several processes: nothing of what is computed changes, with any attention, encoding and
feed-forward network that lies on disk."""

import json
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from command import Gptx, records
from conftest import Maker
from helpers_model import options

from gptx import compose, load
from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.model.build import build
from gptx.pos.learned import Learned
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.tp import find_indivisible

PAIRS = " (heads are split in pairs)"
Told = dict[str, dict[str, float]]
Measure = Callable[[str, str, list[str]], Told]

POSITIONS = ("rope", "alibi", "t5", "learned", "rope_alpha", "kerple", "fire")
EXTRA = {"mqa": ",attention.n_kv_head=2", "mla": ",attention.q_rank=6,attention.bias=true"}  # mqa: one cannot be cut
ODD = [
    *(f"window=sliding,window.size=5,kernel=banded,pos={pos}" for pos in ("alibi", "t5", "kerple", "fire")),
    *(f"window=alternating,window.size=5,pos={pos}" for pos in ("irope", "rope_dual")),
    "pos=rope_alpha,attention=gqa,data.document_mask=true",
    "pos=xpos,attention=gqa,attention.qk_norm=true,kernel=sdpa",
    "pos=rope_alpha,pos.shared=true,norm=rmsnorm,placement=peri",
    "pos=alibi,kernel=sdpa,model.tie=false,activation_checkpointing=true",
    "attention=gated,attention.per_head=true,attention.qk_norm=true,attention.softcap=5",
]


def cases() -> list[str]:
    """Every attention as it comes and with all it can have, every encoding with two of them, every FFN."""
    at, found = cycle(POSITIONS), []
    for attention in options("attention"):
        more = EXTRA.get(attention, ",attention.qk_norm=true,attention.bias=true")
        found += [f"attention={attention}{extra},pos={next(at)}" for extra in (EXTRA.get(attention, ""), more)]
    return [*dict.fromkeys(found), *(f"ffn={ffn},model.bias=true" for ffn in options("ffn")), *ODD]


CASES = cases()
SQUARE = [*CASES[:14:3], "ffn=moe", "ffn=swiglu,pos=learned", ODD[0]]


@pytest.fixture(scope="module")
def measure(make: Maker) -> Measure:
    """What the processes of a strategy tell of cases, all of them in one launch."""
    told: dict[tuple[str, str], Told] = {}

    def one(function: str, strategy: str, words: list[str]) -> Told:
        if (function, strategy) not in told:
            gptx = make(f"{function}-{strategy}")
            done = gptx.run("tensor_parallel", function, str(gptx.cwd), strategy, *words, timeout=900)
            assert done.code == 0, done.err
            told[function, strategy] = json.loads((gptx.cwd / "told.json").read_text())
        return told[function, strategy]

    return one


@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_does(measure: Measure, case: str) -> None:
    found = measure("against_one_process", "tp", CASES)[case]
    assert found.pop("cut") > 0
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("case", SQUARE)
def test_two_times_two_processes_compute_what_one_does(measure: Measure, case: str) -> None:
    found = measure("against_one_process", "fsdp_tp", SQUARE)[case]
    assert found.pop("cut") > 0
    assert max(found.values()) < 1e-9, found


def test_what_is_computed_alike_drops_alike(measure: Measure) -> None:
    case = "model.dropout=0.3,attention=mla,pos=alibi"
    assert measure("dropping", "tp", [case])[case] == {"drift": 0.0}


@pytest.mark.parametrize("strategy", ["tp", "fsdp_tp"])
def test_a_checkpoint_is_read_by_one_process_and_the_other_way_round(measure: Measure, strategy: str) -> None:
    case = "attention=sink,pos=t5,attention.qk_norm=true"
    found = measure("crossing", strategy, [case])[case]
    assert len(found) == 4 and max(found.values()) < 1e-9, found


@pytest.fixture(scope="module")
def alone(make: Maker) -> Gptx:
    gptx = make("alone")
    assert gptx("strategy=single").code == 0
    return gptx


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "processes"), [("tp", 2), ("fsdp_tp", 4)])
def test_the_command_trains_as_one_process_does(gptx: Gptx, alone: Gptx, strategy: str, processes: int) -> None:
    done = gptx(f"strategy={strategy}", f"strategy.nproc={processes}")
    assert done.code == 0 and "[rank" not in done.err, done.err
    ours, theirs = ([record["values"] for record in records(one.folder, "metrics")] for one in (gptx, alone))
    assert len(ours) == len(theirs) == 30
    for mine, its in zip(ours, theirs, strict=True):
        assert set(mine) == set(its)
        for name in set(its) - {"perf/tokens_per_s"}:
            assert mine[name] == pytest.approx(its[name], rel=1e-5), name
    read = [load(one.folder)[0].state_dict() for one in (gptx, alone)]
    for name in read[1]:
        torch.testing.assert_close(read[0][name], read[1][name], rtol=1e-3, atol=1e-5)


# Refusals


def refusal(words: list[str], processes: int) -> str:
    """What the strategy says before any process is started; nothing, if it can."""
    cfg = compose(["model.n_layer=1", "model.d_model=48", "model.n_head=4", "device=cpu", *words])
    strategy = part(cfg.strategy)
    with torch.device("meta"):
        model = build(cfg, 11)
    try:
        strategy.check(model, processes, BatchPlan.of(cfg, strategy.batch_slices(processes)))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("words", "processes", "given", "instead"),
    [
        ("attention=mqa", 2, "attention.n_kv_head=1", ["attention.n_kv_head=2", "strategy=fsdp"]),
        ("attention=gqa", 4, "attention.n_kv_head=2", ["attention.n_kv_head=4", "strategy.nproc=2"]),
        ("model.n_head=3", 2, "model.n_head=3", ["model.n_head=2", "strategy=fsdp"]),
        ("attention=mla", 3, "model.n_head=4", ["model.n_head=3", "strategy.nproc=2"]),
        (
            "attention=differential",
            4,
            f"model.n_head=4{PAIRS}",
            ["model.n_head=8", "strategy.nproc=2"],
        ),
        (
            "attention=differential attention.n_kv_head=2",
            2,
            f"attention.n_kv_head=2{PAIRS}",
            ["attention.n_kv_head=4", "strategy=fsdp"],
        ),
        ("model.d_model=15 model.n_head=3 pos=none", 2, "model.n_head=3", ["strategy=fsdp"]),
        ("ffn.ratio=2.6", 2, "ffn=gelu of width 125", ["ffn.ratio=2.58333", "strategy=fsdp"]),
        (
            "ffn=swiglu ffn.ratio=2.6 ffn.multiple_of=1",
            2,
            "ffn=swiglu of width 125",
            ["ffn.multiple_of=2", "strategy=fsdp"],
        ),
        ("strategy=fsdp_tp attention=mqa", 4, "attention.n_kv_head=1", ["attention.n_kv_head=2", "strategy=fsdp"]),
        (
            "strategy=fsdp_tp strategy.tp=0 attention=gqa",
            4,
            "attention.n_kv_head=2",
            ["attention.n_kv_head=4", "strategy.tp=2"],
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_with_what_can(
    words: str, processes: int, given: str, instead: list[str]
) -> None:
    ours = ["strategy=tp", *words.split()] if "strategy" not in words else words.split()
    text = refusal(ours, processes)
    assert f"not possible with {given}: use {' or '.join(instead)}" in text, text
    for way in instead:
        fewer = int(way[-1]) if way.startswith("strategy.nproc=") else processes
        kept = ours if way != "strategy=fsdp" else [word for word in ours if not word.startswith("strategy")]
        assert refusal([*kept, way], fewer) == ""


@pytest.mark.parametrize(
    "words", ["ffn=moe ffn.ratio=2.6", "attention=mla", "attention=gqa model.n_head=6", "pos=learned"]
)
def test_what_can_be_cut_is_not_refused(words: str) -> None:
    assert refusal(["strategy=tp", *words.split()], 2) == ""


def test_an_encoding_that_embeds_and_turns_heads_is_refused() -> None:
    """Nobody would know which of its gradients are parts of a sum."""

    class Both(Learned):
        biased = True

    with torch.device("meta"):
        model = build(compose(["pos=learned", "device=cpu"]), 11)
        model.pos = Both(model.shape, 4, 2)
    found = find_indivisible(model, 2)
    assert found is not None and "in the embedding and in the heads" in found.given


def test_groups_that_do_not_come_out_even_are_refused() -> None:
    text = refusal(["strategy=fsdp_tp", "strategy.tp=3"], 4)
    assert "strategy.tp=3 does not divide 4 processes: use strategy.tp=2" in text
