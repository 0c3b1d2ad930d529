"""A strategy changes nothing that a run computes: losses, gradients, weights and validation equal those of one process.

The checks are run in groups of worker processes, many checks in one group (see tests/own/equivalence.py).
"""

import json
import re
from collections.abc import Sequence
from itertools import cycle, product
from typing import Any

import pytest
import torch
from command import ROOT, Gptx, records
from conftest import Maker

from gptx import load
from gptx.config.overrides import options

Checks = Sequence[str]
Result = dict[str, float]

WINDOWS = [f"window={window}" for window in options("window")]
POSITIONS = [f"pos={pos}" for pos in ("rope", "alibi", "t5", "learned", "rope_alpha", "kerple", "fire")]
ALL_POSITIONS = [f"pos={pos}" for pos in options("pos")]
PAIRS = (("gqa", "rope"), ("mha", "alibi"), ("sink", "fire"), ("forgetting", "none"))
RECOMPUTE = "activation_checkpointing=true"
OF_ATTENTION = {"mqa": "attention.n_kv_head=2", "mla": "attention.q_rank=6"}  # mqa: a single head cannot be split
DATA_PARALLEL = ("ddp", "fsdp", "hsdp")
CHECKPOINT = "attention=sink,attention.qk_norm=true,pos=t5"


def train(strategy: str, *overrides: str) -> str:
    return f"train {','.join((strategy, *filter(None, overrides)))}"


def of_each_attention(strategy: str, *others: Sequence[str]) -> list[str]:
    """One config for each attention; the overrides of the other sequences are assigned in turn."""
    configs = zip(options("attention"), *map(cycle, others), strict=False)
    return [
        train(strategy, f"attention={attention}", OF_ATTENTION.get(attention, ""), *rest)
        for attention, *rest in configs
    ]


TP = of_each_attention("tp", POSITIONS, ["", "pack"])
CP = of_each_attention("cp", WINDOWS, ALL_POSITIONS, ["pack", RECOMPUTE])

# Each attention under one of tp and cp; the second tier has it under the other one, too.
ON_TWO: Checks = [
    train("ddp", "attention=gqa,pos=rope,window=sliding,pack"),
    train("fsdp", "attention=mha,pos=learned,activation_checkpointing=true"),
    train("hsdp", "attention=gqa,pos=rope,window=sliding,pack"),
    *TP[::2],
    train("tp", "ffn=moe,model.bias=true"),
    train("fsdp_tp", "attention=gqa,pos=t5"),
    *CP[1::2],
    train("pp", "attention=gqa,pos=rope,window=sliding"),
    train("pp", "attention=sink,pos=t5,window=alternating,model.tie=false,pack"),
    *(f"checkpoints {strategy},{CHECKPOINT}" for strategy in ("fsdp", "pp")),
    "dropout tp,model.dropout=0.3,attention=mla,pos=alibi",
]  # fmt: skip

ON_TWO_IN_FULL: Checks = [
    train("ddp", "attention=mha,pos=learned,activation_checkpointing=true"),
    train("fsdp", "attention=gqa,pos=rope,window=sliding,pack"),
    train("hsdp", "attention=mha,pos=learned,activation_checkpointing=true"),
    *TP[1::2],
    *CP[::2],
    train("pp", "attention=mqa,pos=learned,placement=peri"),
    train("pp", "attention=mla,pos=kerple,ffn=swiglu,activation_checkpointing=true"),
    *(f"checkpoints {strategy},{CHECKPOINT}" for strategy in ("tp", "cp")),
    train("tp", "attention=forgetting,attention.n_kv_head=2,attention.qk_norm=true,attention.norm_per_head=true"),
    f"dropout tp,model.dropout=0.3,attention=gqa,compile,{RECOMPUTE}",
    *of_each_attention("tp", ["attention.bias=true"], ["attention.qk_norm=true", ""], POSITIONS[::2]),
    *(train("tp", f"ffn={ffn},model.bias=true") for ffn in options("ffn")),
    *(train("tp", "window=sliding,window.size=5,kernel=banded", pos) for pos in POSITIONS[1:]),
    *(train("tp", f"window=alternating,window.size=5,pos={pos}") for pos in ("irope", "rope_dual")),
    train("tp", "pos=xpos,attention=gqa,attention.qk_norm=true,kernel=sdpa"),
    train("tp", "pos=rope_alpha,pos.shared=true,norm=rmsnorm,placement=peri"),
    train("tp", "pos=alibi,kernel=sdpa,model.tie=false,activation_checkpointing=true"),
    train("tp", "attention=gated,attention.per_head=true,attention.qk_norm=true,attention.softcap=5"),
    *of_each_attention("cp", WINDOWS[3:] + WINDOWS[:3], ALL_POSITIONS[5:]),
    *of_each_attention("cp", WINDOWS[6:] + WINDOWS[:6], ALL_POSITIONS[10:], ["pack"]),
    *(
        train("cp", f"attention={attention},pos={pos},{window},kernel={kernel}", pack)
        for (kernel, window), (attention, pos), pack in zip(
            product(("sdpa", "banded", "reference"), WINDOWS), cycle(PAIRS), cycle(["pack", "", ""]), strict=False
        )
    ),
    train("pp", "attention=gated,pos=fire,model.tie=false,norm=rmsnorm"),
    train("pp", "attention=gqa,pos=rope_alpha,window=chunked,placement=post"),
    train("pp", "attention=differential,pos=rope_dual,window=alternating"),
    train("pp", "attention=forgetting,pos=rope_alpha,window=sliding,pack"),
    train("pp", "attention=mha,pos=learned,model.tie=false,micro=8"),
    train("pp", "attention=gqa,pos=rope,strategy.chunks=2"),
    train("pp", "attention=gqa,pos=rope,window=sliding,precision=bf16"),
    train("pp", "attention=mha,pos=fire,window=alternating,precision=bf16"),
    train("pp", "attention=gqa,pos=rope,window=sliding,steps=20"),
    train("pp", "attention=mha,pos=learned,steps=20"),
    train("pp", "attention=gqa,pos=rope,compile"),
    "checkpoints pp,attention=gqa,pos=learned",
    "checkpoints pp,attention=gqa,pos=t5,strategy.pp=1",
]  # fmt: skip

ON_FOUR: Checks = [
    *(train(strategy, "attention=gqa,pos=rope,window=sliding,micro=1") for strategy in DATA_PARALLEL),
    *of_each_attention("fsdp_tp", POSITIONS),
    train("fsdp_tp", "ffn=moe"),
    f"checkpoints fsdp_tp,{CHECKPOINT}",
    *(
        train("cp", f"strategy.cp={cp},{overrides}", pack)
        for cp in (2, 4)
        for overrides in ("attention=forgetting,window=sliding,pos=alibi", "attention=mla,pos=learned")
        for pack in ("", "pack")
    ),
    train("pp", "attention=gqa,pos=t5,window=alternating"),
    train("pp", "attention=mha,pos=learned,model.tie=false,pack"),
    train("pp", "strategy.pp=2,attention=gqa,pos=rope_alpha,window=alternating,pack"),
    train("pp", "strategy.pp=2,attention=mha,pos=fire,micro=2"),
    train("pp", "strategy.pp=2,attention=gqa,pos=rope,strategy.param_dtype=bf16"),
    train("pp", "strategy.pp=2,attention=mha,pos=learned,model.tie=false,steps=20"),
    train("pp", "strategy.pp=1,attention=gqa,pos=rope"),
]  # fmt: skip

ONE = {"hsdp": "strategy.shard=1", "fsdp_tp": "strategy.tp=1"}  # of several processes, the default is 2
ON_ONE: Checks = [
    *(
        train(strategy, ONE.get(strategy, ""), *also)
        for strategy in sorted({*options("strategy")} - {"single"})
        for also in (["compile"], [RECOMPUTE, "compile"], ["ffn=moe", RECOMPUTE], ["ffn=moe", RECOMPUTE, "compile"])
        if "ffn=moe" not in also or strategy not in ("cp", "pp")  # these reject experts with side losses
        if "compile" not in also or strategy != "hsdp"  # compiles as fsdp does
    ),
    *(train("fsdp", f"strategy.{key}") for key in ("offload=true", "reshard=false", "prefetch=1")),
    train("fsdp", "strategy.reduce_dtype=bf16"),
    train("fsdp", "strategy.param_dtype=bf16"),
]

IN_FLOAT64 = dict.fromkeys(("first step", "history", "gradients", "weights"), 1e-9) | {"validation": 1e-6}
IN_FLOAT32 = {"first step": 1e-6, "history": 1e-5, "gradients": 5e-5, "weights": 1e-3, "validation": 2e-5}
IN_BF16 = {"first step": 1e-2, "history": 2e-2, "gradients": 5e-2, "validation": 1e-1}  # the weights of AdamW's first
# steps depend on the signs of gradients: they are not compared


def strategy_of(check: str) -> str:
    return check.split()[1].split(",")[0]


def bounds(check: str) -> Result:
    if "bf16" in check:
        return IN_BF16
    return IN_FLOAT32 if strategy_of(check) == "pp" else IN_FLOAT64


def run(make: Maker, checks: Checks, processes: int, fork: bool = False) -> list[dict[str, Any]]:
    """Run all checks in one group of workers, new interpreters or forks; return the results of each rank."""
    gptx = make(f"equivalence-on-{processes}")
    (gptx.cwd / "checks.json").write_text(json.dumps(list(dict.fromkeys(checks))))
    done = gptx.run("equivalence", str(processes), str(gptx.cwd), timeout=900, by=gptx.warm if fork else None)
    assert (done.code, done.out) == (0, ""), done.err
    assert gptx.orphans() == []
    return [json.loads((gptx.cwd / f"{rank}.json").read_text()) for rank in range(processes)]


def differing(results: list[dict[str, Any]]) -> list[str]:
    """The checks in which a rank differs from one process by more than the bound, each with what differs."""
    found = []
    for rank, checks in enumerate(results):
        for check, result in checks.items():
            limits = bounds(check) if check.startswith("train") else dict.fromkeys(result, 1e-6)
            differences = ((name, result[name]) for name in limits) if isinstance(result, dict) else ()
            found += [
                f"{check}: {name} on rank {rank} differs by {d:.1e}" for name, d in differences if d > limits[name]
            ]
    return found


def rejected(results: list[dict[str, Any]]) -> set[str]:
    return {check for check, result in results[0].items() if isinstance(result, str)}


def test_every_strategy_trains_as_one_process(make: Maker) -> None:
    assert {strategy_of(check) for check in ON_TWO} == {*options("strategy")} - {"single"}
    results = run(make, ON_TWO, 2, fork=True)
    assert rejected(results) == set()
    assert differing(results) == []
    for check, result in results[0].items():
        if check.startswith("train"):
            assert (result["local weights"] < result["all weights"]) == ("ddp" not in check), check


@pytest.mark.full
def test_two_processes_train_as_one_process_in_all_combinations(make: Maker) -> None:
    results = run(make, ON_TWO_IN_FULL, 2)
    assert all("kernel=" in check for check in rejected(results)), "a kernel that does not support the combination"
    assert len(results[0]) - len(rejected(results)) > 60
    assert differing(results) == []


@pytest.mark.full
def test_four_processes_train_as_one_process(make: Maker) -> None:
    results = run(make, ON_FOUR, 4)
    assert rejected(results) == set()
    assert differing(results) == []


@pytest.mark.full
def test_strategies_compose_with_checkpointing_experts_and_compile(make: Maker) -> None:
    """In one process: nothing of this depends on the number of processes."""
    [results] = run(make, ON_ONE, 1)
    assert rejected([results]) == set()
    assert differing([results]) == []
    for key in ("reduce_dtype", "param_dtype"):
        assert results[train("fsdp", f"strategy.{key}=bf16")]["history"] > 1e-6, "bf16 is not used"


@pytest.fixture(scope="module")
def trained_by_one(make: Maker) -> Gptx:
    gptx = make("one-process")
    assert gptx("strategy=single", "model.n_layer=2").code == 0
    return gptx


@pytest.mark.full
@pytest.mark.parametrize(("strategy", "processes"), [("tp", 2), ("cp", 2), ("pp", 2), ("fsdp_tp", 4)])
def test_command_trains_as_one_process(gptx: Gptx, trained_by_one: Gptx, strategy: str, processes: int) -> None:
    """Every value in the journal, and the weights."""
    done = gptx(f"strategy={strategy}", f"strategy.nproc={processes}", "model.n_layer=2")
    assert done.code == 0 and "[rank" not in done.err and "Warning" not in done.err, done.err
    found, expected = (
        [record["values"] for record in records(one.folder, "metrics")] for one in (gptx, trained_by_one)
    )
    assert len(found) == len(expected) == 30
    for values, reference in zip(found, expected, strict=True):
        assert set(values) == set(reference)
        for name in set(reference) - {"perf/tokens_per_s"}:
            assert values[name] == pytest.approx(reference[name], rel=1e-5), name
    weights = [load(one.folder)[0].state_dict() for one in (gptx, trained_by_one)]
    for name in weights[1]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5)


def test_only_strategies_checkpoints_and_workers_import_torch_distributed() -> None:
    importing = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "gptx").rglob("*.py")
        if re.search(r"^\s*(from|import) torch\.distributed", path.read_text(), re.MULTILINE)
    ]
    allowed = ("gptx/strategy/", "gptx/training/checkpoint", "gptx/processes/workers.py")
    assert [path for path in importing if not path.startswith(allowed)] == []
