"""Mistakes in a command are reported in one line, without importing torch where possible."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Gptx, one_line, options_once
from composed import COMPOSITIONS
from conftest import Trained
from warm import WarmParent

from gptx.config.compose import compose
from gptx.errors import ConfigError, GptxError
from gptx.training.preflight import preflight

# The command, and the text that the error line must contain: one of each kind, then others of the same kinds.
MISTAKES = [
    (["attention=mqq"], ["attention=mqq", "Did you mean 'mqa'?", "gqa, mha"]),
    (["atention=mqa"], ["'atention'", "Did you mean 'attention'?"]),
    (["trainer.max_step=5"], ["trainer.max_step", "'trainer.max_steps'", "batch_size"]),
    (["n_layer=3"], ["n_layer", "'model.n_layer'"]),
    (["lr=3e-4"], ["unknown key 'lr'. Did you mean 'optim.lr'?"]),
    (["trainer.lr=3e-4"], ["unknown key 'trainer.lr'. Did you mean 'optim.lr'?"]),
    (["batchsize=4"], ["Did you mean 'trainer.batch_size'?"]),
    (["size=8"], ["unknown key 'size'. window.size is a key of window=alternating, chunked, dilated, sliding"]),
    (["+attention=gqa"], ["attention=...", "without +"]),
    (["window.size=8"], ["window.size", "a key of window=alternating, chunked, dilated, sliding"]),
    (["trainer.max_steps=many"], ["trainer.max_steps='many'", "whole number", "800"]),
    (["optim.betas=[0.9,x]"], ["optim.betas[1]='x'", "number"]),
    (["model.tie=1"], ["model.tie=1", "true or false"]),
    (["~trainer.max_steps"], ["trainer.max_steps", "deleted"]),
    (["seed=0,1"], ["seed=0,1", "-m"]),
    (["max_steps"], ["max_steps", "="]),
    (["attention=mha,gqa", "-m", "hydra/sweeper=basic"], ["hydra/sweeper=basic", "one of: grid, optuna."]),
    (["study=../elsewhere"], ["study=../elsewhere", "'/'"]),
    (["data=text", "data.path=nowhere.txt"], ["data.path=nowhere.txt", "no file"]),
    (["data=sotu", "data.until=1700"], ["data.until=1700", "1790"]),
    (["--config-dir", "nowhere"], ["nowhere", "not found"]),
    (["attention=gqa", "--multirum"], ["--multirum", "--help"]),
    (["--cfg", "jobs"], ["'jobs'", "'job'"]),
]
MORE_MISTAKES = [
    (["model=gpt3"], ["model=gpt3", "'gpt2'", "nano"]),
    (["strategy=ddpp"], ["strategy=ddpp", "'ddp'", "single"]),
    (["+trainer.max_step=5"], ["trainer.max_step", "'trainer.max_steps'"]),
    (["++nonsense=1"], ["nonsense", "trainer"]),
    (["+optim.amsgrad=true"], ["optim.amsgrad", "lr, betas"]),
    (["trainer.max_steps=1.5"], ["trainer.max_steps=1.5", "whole number"]),
    (["trainer.max_steps=null"], ["trainer.max_steps=None", "whole number"]),
    (["trainer=5"], ["trainer=5", "max_steps, batch_size"]),
    (["optim.lr=fast"], ["optim.lr='fast'", "number", "0.001"]),
    (["optim.betas=0.9"], ["optim.betas=0.9", "list", "[0.9, 0.95]"]),
    (["study=.hidden"], ["study=.hidden", "'.'"]),
    (["data=text", "data.path=nowhere/*.txt"], ["data.path=nowhere/*.txt", "no file"]),
    (["data=text", "data.path=''"], ["data.path=FILE"]),
    (["data=shakespeare", "data.path=nowhere.txt"], ["data.path=nowhere.txt", "no such file"]),
]


def named(cases: list[tuple[list[str], list[str]]], *marks: pytest.MarkDecorator) -> list[Any]:
    return [pytest.param(words, parts, id=" ".join(words), marks=marks) for words, parts in cases]


YAML = [
    (b"a: b: c", "FILE, line 1, column 5: mapping values are not allowed here"),
    (
        b"lr: [1, 2\nfoo: 3\n",
        "FILE, line 2, column 4: expected ',' or ']', but got ':' (while parsing a flow sequence)",
    ),
    (b"a:\n\tb: c", "FILE, line 2, column 1: found character '\\t' that cannot start any token (while scanning for"),
    (b"a: 1\na: 2\n", "FILE, line 2, column 1: found duplicate key a (while constructing a mapping)"),
    (b"a: *b\n", "FILE, line 1, column 4: found undefined alias 'b'"),
    (b"\xff\xfe: 3\n", "FILE is not encoded as UTF-8: invalid start byte at byte 0"),
    (b'a: "\x01"', "FILE: special characters are not allowed: 1 at position 4"),
    (b"- 1\n", "attention=odd: its YAML file holds a list, expected keys such as _target_: ..."),
    (b"", "attention: its YAML file has no _target_, the name of a class such as mine.Mine"),
]


@pytest.mark.parametrize(("content", "message"), YAML)
def test_unreadable_yaml_is_reported_with_file_line_and_cause(
    content: bytes, message: str, gptx: Gptx, without_torch: WarmParent
) -> None:
    file = gptx.cwd / "mine" / "attention" / "odd.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    by = without_torch if message.startswith("FILE") else None
    done = gptx.run("gptx.run", *gptx.tiny, "--config-dir", "mine", "attention=odd", by=by)
    one_line(done, message.replace("FILE", str(file)))


@pytest.mark.parametrize(("words", "parts"), [*named(MISTAKES), *named(MORE_MISTAKES, pytest.mark.full)])
def test_mistake_is_reported_in_one_line_without_torch(
    words: list[str], parts: list[str], gptx: Gptx, without_torch: WarmParent
) -> None:
    done = gptx.run("gptx.run", *words, by=without_torch)
    one_line(done, *parts)
    assert not gptx.outputs.exists()


UNREADABLE = [
    (
        ["attention=[mha,gqa]"],
        ["attention=[mha,gqa] is a list: expected one option, or"],
    ),
    (["attention=null"], ["unknown option attention=null. attention is one of: "]),
    (
        ["hydra/launcher=basic"],
        ["unknown option hydra/launcher=basic.", "is one of: example_cluster, local"],
    ),
    (["hydra/sweeper=basic"], ["hydra/sweeper is one of: grid, optuna."]),
    (["experiment=smoke/nanogpt_shakespeare_cpu"], ["_cpu. experiment/smoke is one of: attention_ablation, "]),
    (["seed=0,"], ["cannot read 'seed=0,': expected key=value"]),
    (["seed=some(1)"], ["cannot read 'seed=some(1)': Unknown function 'some'"]),
]


@pytest.mark.parametrize(("words", "parts"), named(UNREADABLE))
def test_compose_names_the_unreadable_override(words: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as rejected:
        compose(words)
    assert "\n" not in str(rejected.value)
    for part in parts:
        assert part in str(rejected.value)


UNFIT: list[tuple[list[str], list[str]]] = [
    (["attention=gqa", "attention.n_kv_head=3"], ["attention.n_kv_head=3", "model.n_head=4", "1, 2, 4"]),
    (["pos=rope", "model.d_model=12"], ["rope", "head_dim", "3", "model.d_model=16"]),
    (["model.context=20000"], ["context=20000", "20001", "at most context="]),
    (["strategy=ddp", "trainer.batch_size=3"], ["trainer.batch_size=3", "2 processes", "strategy.nproc=1"]),
    (["strategy=ddp", "strategy.nproc=64"], ["trainer.batch_size=8", "64 processes", "strategy.nproc=8"]),
    (["model.n_head=3"], ["model.d_model=16", "model.n_head=3", "18"]),
    (["strategy=single", "strategy.nproc=2"], ["strategy.nproc=2", "strategy=ddp"]),
    (["strategy=ddp", "strategy.nproc=-1"], ["strategy.nproc=-1", "1 or more"]),
    (["strategy=ddp", "strategy.timeout=0"], ["strategy.timeout=0", "at least 1"]),
    (["trainer.micro_batch=3"], ["trainer.micro_batch=3", "8 sequences", "use trainer.micro_batch=2"]),
    (["model.vocab_size=100"], ["model.vocab_size=100", "257"]),
    (["window=sliding", "window.size=0"], ["window.size=0", "at least 1"]),
    (["model.dropout=1.5"], ["model.dropout=1.5", "dropout < 1"]),
    (["model.n_layer=0"], ["model.n_layer=0", "at least 1"]),
    (["trainer.max_steps=0"], ["trainer.max_steps=0", "at least 1"]),
    (["seed=-1"], ["seed=-1", "at least 0"]),
    (["optim.lr=0"], ["optim.lr=0", "more than 0"]),
    (["optim.weight_decay=-1"], ["optim", "weight_decay", "-1"]),
    (["optim.betas=[0.9]"], ["optim", "betas"]),
    (["optim.betas=[0.9,1.5]"], ["optim", "1.5"]),
    (["optim.betas=[0.9,0.95,0.99]"], ["optim", "betas=[0.9, 0.95, 0.99]"]),
    (["pos.theta=0"], ["pos.theta=0", "more than 0"]),
    (["pos=sinusoidal", "pos.theta=-1"], ["pos.theta=-1", "more than 0"]),
    (["seed=99999999999999999999"], ["seed=99999999999999999999", "less than"]),
    (["schedule.warmup=2"], ["schedule.warmup=2.0", "0 to 1"]),
    (["ffn.ratio=-1"], ["ffn.ratio=-1", "more than 0"]),
    (["precision.dtype=fp8"], ["precision.dtype=fp8", "bf16", "fp32"]),
    (["device.type=tpu"], ["device=tpu", "cpu"]),
    (["device=mps"] if sys.platform == "linux" else ["device=cuda"], ["is not available", "cpu"]),
    (["data.val_fraction=0.9"], ["data.val_fraction=0.9", "at most 0.5"]),
    (["attention._target_=nowhere.Thing"], ["attention", "nowhere.Thing"]),
]


@pytest.mark.parametrize(
    ("words", "parts"), [UNFIT[0], UNFIT[3]], ids=lambda value: " ".join(value) if "=" in value[0] else ""
)
def test_rejected_config_creates_no_folder(words: list[str], parts: list[str], gptx: Gptx) -> None:
    one_line(gptx(*words), *parts)
    assert not gptx.outputs.exists()


@pytest.mark.parametrize(("words", "parts"), named(UNFIT))
def test_preflight_rejects_in_one_line(words: list[str], parts: list[str], trained: Trained, tmp_path: Path) -> None:
    """The rejections of preflight, called in the test process."""
    tiny = [word for word in trained.gptx.tiny if word.partition("=")[0] not in [w.partition("=")[0] for w in words]]
    with pytest.raises(GptxError) as rejected:
        preflight(compose(options_once(*tiny, *words, f"paths.outputs={tmp_path}/outputs"), COMPOSITIONS))
    assert rejected.value.exit_code == 2
    assert "\n" not in str(rejected.value)
    for part in parts:
        assert part in str(rejected.value)
    assert list(tmp_path.iterdir()) == []


def test_help_and_cfg_print_options_and_config(gptx: Gptx, without_torch: WarmParent) -> None:
    shown = gptx.run("gptx.run", "--help", by=without_torch)
    assert shown.code == 0
    for axis, option in (("attention", "gqa"), ("pos", "rope"), ("window", "sliding"), ("strategy", "ddp")):
        assert re.search(rf"{axis}: .*\b{option}\b", shown.out)
    config = gptx.run("gptx.run", "attention=gqa", "--cfg", "job", by=without_torch)
    assert config.code == 0
    assert "\n  n_kv_head: 2               # key/value heads; must divide model.n_head\n" in config.out
    assert "\nattention:                   # gqa: Grouped-query attention" in config.out
    assert "data_seed: ${seed}           # order of the batches" in config.out
    part = gptx.run("gptx.run", "seed=3", "--cfg", "job", "--package", "trainer", "--resolve", by=without_torch)
    assert part.out.startswith("max_steps: 800               # optimiser steps\n")
    assert list(gptx.cwd.iterdir()) == []
