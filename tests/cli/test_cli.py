"""The commands in real processes: what they print, which files they write, how they report mistakes and failures."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import DEADLINE, OWN, ROOT, Done, Gptx, Terminal, environment, history, records, unused_port, weights
from conftest import Maker, Trained
from fake_runs import contents, database, rows_of, uid_of
from warm import WarmParent

from gptx.config.compose import Schemas, compose
from gptx.errors import ConfigError, GptxError
from gptx.generate import main as generate
from gptx.runs import journal
from gptx.runs.checkpoint_files import steps
from gptx.training.best_weights import load_best
from gptx.training.preflight import preflight

OWN_CONF = ("--config-dir", str(OWN / "conf"))


# ---------------------------------------------------------------------------------------- one run


def test_run_prints_validations_sample_and_next_commands(trained: Trained) -> None:
    done = trained.done
    assert done.code == 0, done.err
    validations = re.findall(r"step +(\d+) +val loss (\d\.\d{4}) +(\d\.\d{4}) bits/byte", done.err)
    assert [int(step) for step, _, _ in validations] == [10, 20, 30]
    assert float(validations[-1][1]) < float(validations[0][1])
    folder = str(trained.folder.relative_to(trained.gptx.cwd))
    assert "Warning" not in done.err
    assert "sample after 30 steps" in done.out
    assert re.search(rf"folder +{re.escape(folder)}", done.out)
    assert f"gptx generate '{folder}' --prompt" in done.out
    assert "gptx compare outputs/default" in done.out
    assert "gptx ui" in done.out
    assert f"{validations[-1][1]} nats/token" in done.out


def test_run_folder_has_every_file(trained: Trained) -> None:
    folder = trained.folder
    assert folder.parent == trained.gptx.outputs / "default"
    assert re.fullmatch(r"mha·rope·full·single·s0-[0-9a-f]{10}", folder.name)
    names = {path.name for path in folder.iterdir()}
    expected = {"config.yaml", "journal.jsonl", "result.json", "checkpoints", "samples", "tokenizer.json", "run.lock"}
    assert names == expected
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-00000020", "step-00000030", "best"}
    assert (folder / "samples" / "step-00000030.txt").read_text() == records(folder, "sample")[0]["text"]


def test_result_has_every_figure(trained: Trained) -> None:
    result = json.loads((trained.folder / "result.json").read_text())
    figures = ("val_loss", "val_bpb", "val_accuracy", "val_perplexity", "train_loss", "tokens_per_s", "best_step")
    figures += ("n_params", "flops_per_token", "kv_bytes_per_token", "peak_memory_bytes", "steps", "tokens")
    for key in figures:
        assert isinstance(result[key], int | float) and result[key] > 0, key
    for key in ("uid", "identity", "name", "study", "corpus_hash", "tokenizer_hash"):
        assert isinstance(result[key], str) and result[key], key
    assert result["status"] == "finished"
    assert result["error"] is None
    assert result["steps"] == 30
    assert result["tokens"] == 30 * 8 * 16
    assert {"commit", "dirty"} <= result["git"].keys()
    assert {"python", "torch"} <= result["versions"].keys()
    assert {"device", "cpu", "cores", "memory_bytes"} <= result["hardware"].keys()
    assert result["variant"]["attention"] == "mha" and result["config"]["trainer"]["max_steps"] == 30
    assert history(trained.folder)["val/loss", result["best_step"]] == result["val_loss"]


def test_journal_has_a_record_for_every_step(trained: Trained) -> None:
    kinds = [record.kind for record in journal.read(trained.folder)]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    keys = {"train/loss", "train/lr", "train/grad_norm"}
    assert [record["step"] for record in records(trained.folder, "metrics")] == list(range(1, 31))
    for record in records(trained.folder, "metrics"):
        validated = {key for key in record["values"] if key.startswith("val/")}
        assert {key for key in record["values"] if key.startswith("train/")} == keys
        assert bool(validated) == (record["step"] % 10 == 0)


def test_progress_bar_on_a_terminal(gptx: Gptx) -> None:
    terminal = Terminal(gptx, "gptx.run", *gptx.tiny, "trainer.max_steps=300")
    assert terminal.end() == 0, terminal.shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)
    bars = re.findall(r"(\d+)/300 +loss (\d\.\d{4}) +([\d,]+) tok/s +(\d:\d\d:\d\d|-:--:--)", plain)
    assert len(bars) > 1, plain
    assert bars[-1][0] == "300"
    assert "\x1b[?25h" in terminal.shown  # the cursor is shown again


def test_tracking_off_writes_no_mlflow_store(trained: Trained) -> None:
    assert [path.name for path in trained.gptx.outputs.iterdir()] == ["default"]
    assert not (trained.gptx.cwd / "mlruns").exists()


# ---------------------------------------------------------------------------------- the same command again


@pytest.fixture(scope="session")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmParent]:
    """Starts commands in which importing torch or mlflow is an error."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Forbidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name not in ('torch', 'mlflow', 'datasets', 'transformers'), f'{name} was imported'\n"
        "sys.meta_path.insert(0, Forbidden())\n"
    )
    path = os.pathsep.join([str(folder), environment()["PYTHONPATH"]])
    parent = WarmParent(environment() | {"PYTHONPATH": path}, ("gptx.config.command", "gptx.training.run_lifecycle"))
    yield parent
    parent.close()


def test_finished_run_shows_its_result_without_torch(trained: Trained, without_torch: WarmParent) -> None:
    before = (trained.folder / "journal.jsonl").read_bytes()
    again = trained.gptx.run("gptx.run", *trained.gptx.tiny, by=without_torch)
    assert again.code == 0, again.err
    assert again.err == ""
    assert "finished already" in again.out
    first, second = (done.out.replace("finished already", "finished") for done in (trained.done, again))
    assert first == second
    assert (trained.folder / "journal.jsonl").read_bytes() == before


def test_keys_outside_the_identity_find_the_same_run(trained: Trained, without_torch: WarmParent) -> None:
    other = ["runtime.log_every=7", "runtime.threads=2", "tracking=mlflow", "runtime.brief=true"]
    again = trained.gptx.run("gptx.run", *trained.gptx.tiny, *other, by=without_torch)
    assert again.code == 0, again.err
    assert again.out.startswith("finished already: val loss ")
    assert len(again.out.splitlines()) == 1


def test_force_trains_again_and_keeps_the_earlier_run(gptx: Gptx) -> None:
    assert gptx().code == 0
    old = records(gptx.folder, "start")[0]["uid"]
    assert gptx("force=true").code == 0
    [start] = records(gptx.folder, "start")
    assert start["uid"] != old and start["replaces"] == old
    [aside] = (gptx.outputs / ".replaced" / "default").iterdir()
    assert records(aside, "start")[0]["uid"] == old
    assert load_best(aside / "checkpoints")[1]["step"] == "30"
    assert history(aside) == history(gptx.folder)


def test_force_is_ignored_when_torchrun_restarts_its_workers(gptx: Gptx) -> None:
    """torchrun repeats the command with force=true; the steps trained since the first start must not be discarded."""
    assert gptx().code == 0
    done = gptx("force=true", TORCHELASTIC_RESTART_COUNT="1")
    assert done.code == 0 and "finished already" in done.out
    assert not (gptx.outputs / ".replaced").exists()


# ------------------------------------------------------------------------------------- strategies


@pytest.fixture(scope="session")
def ddp(make: Maker) -> Gptx:
    gptx = make("ddp")
    done = gptx("strategy=ddp")
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    return gptx


def equal_losses(ours: Path, theirs: Path) -> None:
    a, b = history(ours), history(theirs)
    assert a.keys() == b.keys() and len(a) > 90
    for key in a:
        assert a[key] == pytest.approx(b[key], rel=1e-5 if key[0] != "train/grad_norm" else 1e-4), key


def test_ddp_losses_equal_those_of_one_process(trained: Trained, ddp: Gptx) -> None:
    equal_losses(ddp.folder, trained.folder)
    assert "·ddp·" in ddp.folder.name


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_micro_batches_do_not_change_losses(trained: Trained, gptx: Gptx, strategy: str) -> None:
    done = gptx(f"strategy={strategy}", "trainer.micro_batch=2")
    assert done.code == 0, done.err
    equal_losses(gptx.folder, trained.folder)


@pytest.mark.parametrize("override", ["trainer.micro_batch=2", "strategy=ddp"])
def test_mixture_of_experts_losses_are_equal_with_ddp_and_micro_batches(make: Maker, override: str) -> None:
    """The balance loss and the capacity of experts are computed per row, so the split of the batch changes neither."""
    words = ("ffn=moe", "ffn.capacity=1.0", "ffn.n_expert=4")
    undivided, divided = make("experts"), make("experts, divided")
    for gptx, more in ((undivided, []), (divided, [override])):
        done = gptx(*words, *more)
        assert done.code == 0, done.err
    found = history(undivided.folder)
    balance = [value for (name, _), value in found.items() if name == "train/balance_loss"]
    dropped = [value for (name, _), value in found.items() if name == "train/dropped_share"]
    assert len(balance) == len(dropped) == 30
    assert all(1.9 < value < 8 for value in balance), (
        "top_k where all experts are liked alike, top_k x n_expert at most"
    )
    assert all(0 < value < 0.7 for value in dropped)
    equal_losses(divided.folder, undivided.folder)


def test_torchrun_equals_ddp(ddp: Gptx, gptx: Gptx) -> None:
    command = ["--standalone", "--nproc-per-node=2", "-m", "gptx.run", *gptx.tiny, "strategy=ddp"]
    done = gptx.run("torch.distributed.run", *command)
    assert done.code == 0, done.err
    assert gptx.folder.name == ddp.folder.name
    assert history(gptx.folder) == history(ddp.folder)
    assert done.out.count("val loss") == 1  # only rank 0 prints


@pytest.mark.full
def test_torchrun_on_two_nodes_equals_ddp(ddp: Gptx, gptx: Gptx) -> None:
    words = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={unused_port()}"]
    command = ["-m", "gptx.run", *gptx.tiny, "strategy=ddp"]
    nodes = [gptx.popen("torch.distributed.run", *words, f"--node-rank={rank}", *command) for rank in (0, 1)]
    ends = [Done(0, *node.communicate(timeout=DEADLINE)) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ends
    assert history(gptx.folder) == history(ddp.folder)
    assert [end.out.count("val loss") for end in ends] == [1, 0]


@pytest.mark.full
def test_torchrun_rejects_a_strategy_for_one_process(gptx: Gptx) -> None:
    command = ["--standalone", "--nproc-per-node=2", "-m", "gptx.run", *gptx.tiny]
    done = gptx.run("torch.distributed.run", *command)
    assert done.code != 0
    assert "one process" in done.err and "strategy=ddp" in done.err
    assert not gptx.outputs.exists()


# ---------------------------------------------------------------------------------------- mistakes

# the command, and the text that the error line must contain
MISTAKES = [
    (["attention=mqq"], ["attention=mqq", "Did you mean 'mqa'?", "gqa, mha"]),
    (["model=gpt3"], ["model=gpt3", "'gpt2'", "nano"]),
    (["strategy=ddpp"], ["strategy=ddpp", "'ddp'", "single"]),
    (["atention=mqa"], ["'atention'", "Did you mean 'attention'?"]),
    (["trainer.max_step=5"], ["trainer.max_step", "'trainer.max_steps'", "batch_size"]),
    (["+trainer.max_step=5"], ["trainer.max_step", "'trainer.max_steps'"]),
    (["++nonsense=1"], ["nonsense", "trainer"]),
    (["+optim.amsgrad=true"], ["optim.amsgrad", "lr, betas"]),
    (["n_layer=3"], ["n_layer", "'model.n_layer'"]),
    (["+attention=gqa"], ["attention=...", "without +"]),
    (["window.size=8"], ["window.size", "a key of window=alternating, chunked, dilated, sliding"]),
    (["trainer.max_steps=many"], ["trainer.max_steps='many'", "whole number", "800"]),
    (["trainer.max_steps=1.5"], ["trainer.max_steps=1.5", "whole number"]),
    (["trainer.max_steps=null"], ["trainer.max_steps=None", "whole number"]),
    (["trainer=5"], ["trainer=5", "max_steps, batch_size"]),
    (["optim.lr=fast"], ["optim.lr='fast'", "number", "0.001"]),
    (["optim.betas=0.9"], ["optim.betas=0.9", "list", "[0.9, 0.95]"]),
    (["optim.betas=[0.9,x]"], ["optim.betas[1]='x'", "number"]),
    (["model.tie=1"], ["model.tie=1", "true or false"]),
    (["~trainer.max_steps"], ["trainer.max_steps", "deleted"]),
    (["seed=0,1"], ["seed=0,1", "-m"]),
    (["max_steps"], ["max_steps", "="]),
    (["attention=mha,gqa", "-m", "hydra/sweeper=basic"], ["hydra/sweeper=basic", "one of: grid, optuna."]),
    (["study=../elsewhere"], ["study=../elsewhere", "'/'"]),
    (["study=.hidden"], ["study=.hidden", "'.'"]),
    (["data=text", "data.path=nowhere.txt"], ["data.path=nowhere.txt", "no file"]),
    (["data=text", "data.path=nowhere/*.txt"], ["data.path=nowhere/*.txt", "no file"]),
    (["data=text", "data.path=''"], ["data.path=FILE"]),
    (["data=shakespeare", "data.path=nowhere.txt"], ["data.path=nowhere.txt", "no such file"]),
    (["data=sotu", "data.until=1700"], ["data.until=1700", "1790"]),
    (["--config-dir", "nowhere"], ["nowhere", "not found"]),
    (["attention=gqa", "--multirum"], ["--multirum", "--help"]),
    (["--cfg", "jobs"], ["'jobs'", "'job'"]),
]


def named(cases: list[tuple[list[str], list[str]]]) -> list[Any]:
    return [pytest.param(words, parts, id=" ".join(words)) for words, parts in cases]


def one_line(done: Done, *parts: str) -> None:
    assert done.code == 2, done
    assert done.out == ""
    [line] = done.err.splitlines()
    assert line.startswith("gptx: ")
    for part in parts:
        assert part in line


def test_unreadable_yaml_is_reported_in_one_line(gptx: Gptx, without_torch: WarmParent) -> None:
    file = gptx.cwd / "mine" / "attention" / "odd.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("a: b: c")
    one_line(gptx.run("gptx.run", "--config-dir", "mine", "attention=odd", by=without_torch), str(file), "line 1")


@pytest.mark.parametrize(("words", "parts"), named(MISTAKES))
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
    (["experiment=smoke/nanogpt_shakespeare_cpu"], ["_cpu. experiment/smoke is one of: attention_ablation, ffn_norm"]),
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


SCHEMAS: Schemas = {}

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
        preflight(compose([*tiny, *words, f"paths.outputs={tmp_path}/outputs"], SCHEMAS))
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
    assert "n_kv_head: 2" in config.out
    assert list(gptx.cwd.iterdir()) == []


def test_warning_when_source_of_a_users_variant_has_changed(gptx: Gptx) -> None:
    """The identity of a run has the path of a user's class, not its source, which may be edited after the run."""
    (gptx.cwd / "own" / "attention").mkdir(parents=True)
    shutil.copy(OWN / "conf/attention/scaled.yaml", gptx.cwd / "own/attention/edited.yaml")
    yaml, code = gptx.cwd / "own/attention/edited.yaml", gptx.cwd / "edited.py"
    yaml.write_text(yaml.read_text().replace("mine.", "edited."))
    shutil.copy(OWN / "mine.py", code)
    words = ["--config-dir", "own", "attention=edited", "attention.gain=0.5"]
    assert gptx(*words, "seed=0").code == gptx(*words, "seed=1", "runtime.until=10").code == 0
    again = gptx(*words, "seed=0")
    assert (again.code, again.err) == (0, "")

    code.write_text(code.read_text().replace("* self.gain", "* self.gain * 2"))
    again = gptx(*words, "seed=0")
    assert again.code == 0 and "finished already" in again.out
    assert again.err == "gptx: the source has changed since the run was made (edited): force=true trains it again\n"
    preview = gptx("-m", *words, "seed=0,1,2", "dry_run=true")
    assert "2 runs used an earlier version of your code (edited): force=true starts them again" in preview.out
    on = gptx(*words, "seed=1")
    message = "source hash changed since the run started (edited): force=true starts it again from step 0"
    assert f"gptx: {message}\n" in on.err
    [restarted] = [folder for folder in gptx.folders() if "·s1-" in folder.name]
    assert [record["text"] for record in records(restarted, "event")] == [message]
    forced = gptx(*words, "seed=0", "force=true")
    assert forced.code == 0 and "other code" not in forced.err
    assert gptx(*words, "seed=0").err == ""


# ---------------------------------------------------------------------------------------- failures


def test_worker_exception_is_reported_in_one_line_and_the_fixed_command_resumes(gptx: Gptx) -> None:
    words = [*OWN_CONF, "kernel=fragile", "strategy=ddp"]
    broken = gptx(*words, RAISE_AT="25", RAISE_RANK="1")
    assert broken.code == 1
    assert "Traceback" not in broken.err
    assert broken.err.splitlines()[-1].startswith(
        "gptx: worker 1 (of 0..1) failed: RuntimeError: the kernel broke; see "
    )
    log = (gptx.folder / "logs" / "rank-0001.log").read_text()
    assert log.count("Traceback (most recent call last)") == 1 and "mine.py" in log
    assert gptx.orphans() == []
    result = json.loads((gptx.folder / "result.json").read_text())
    assert result["status"] == "failed" and "the kernel broke" in result["error"]
    assert journal.status(gptx.folder) == "failed"
    mended = gptx(*words)
    assert mended.code == 0, mended.err
    assert [record["step"] for record in records(gptx.folder, "resume")] == [20]
    result = json.loads((gptx.folder / "result.json").read_text())
    assert (result["status"], result["error"], result["steps"]) == ("finished", None, 30)


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_non_finite_steps_are_skipped_up_to_max_skips(gptx: Gptx, strategy: str) -> None:
    words = [*OWN_CONF, "kernel=fragile", f"strategy={strategy}"]
    stopped = gptx(*words, "trainer.max_skips=1", NAN_AT="7,21")  # the checkpoint of step 20 is being written
    assert stopped.code == 1
    assert "Traceback" not in stopped.err
    for part in ("not finite in 2 of 21 steps", "trainer.max_skips=1", "step-00000020", "optim.lr"):
        assert part in stopped.err.splitlines()[-1]
    assert json.loads((gptx.folder / "result.json").read_text())["status"] == "failed"
    assert [path.name for path in steps(gptx.folder / "checkpoints")] == ["step-00000010", "step-00000020"]
    assert load_best(gptx.folder / "checkpoints")[1]["step"] == "20"

    skipped = gptx(*words, "trainer.max_skips=2", NAN_AT="7,21")
    assert skipped.code == 0, skipped.err
    folder = next(folder for folder in gptx.folders() if journal.status(folder) == "finished")
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())
    bad = {(key, step) for (key, step), value in history(folder).items() if not math.isfinite(value)}
    assert bad <= {("train/grad_norm", 7), ("train/grad_norm", 21)}


def test_patience_stops_a_run_without_a_new_best(gptx: Gptx) -> None:
    done = gptx("optim.lr=1e-30", "trainer.max_steps=500", "trainer.patience=2")
    assert done.code == 0, done.err
    result = json.loads((gptx.folder / "result.json").read_text())
    assert (result["steps"], result["best_step"]) == (30, 10)
    again = gptx("optim.lr=1e-30", "trainer.max_steps=500", "trainer.patience=2")
    assert "finished already" in again.out


def test_unwritable_outputs_are_reported_in_one_line(gptx: Gptx) -> None:
    gptx.outputs.write_text("a file")
    done = gptx()
    assert done.code in (1, 2)
    [line] = done.err.splitlines()
    assert line.startswith("gptx: ") and "outputs" in line


def test_full_disk_is_reported_in_one_line_and_the_run_resumes_when_there_is_space(
    gptx: Gptx, trained: Trained
) -> None:
    """A limit on the size of every file simulates the full disk."""
    size = 60_000
    code = "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
    code += "os.execv(sys.argv[2], sys.argv[2:])"
    command = [sys.executable, "-c", code, str(size), sys.executable, "-m", "gptx.run", *gptx.tiny]
    done = subprocess.run(command, cwd=gptx.cwd, env=gptx.env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gptx: could not ")
    assert gptx().code == 0
    assert history(gptx.folder) == history(trained.folder)


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_small_and_read_only_disk(gptx: Gptx, trained: Trained) -> None:
    gptx.outputs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", gptx.outputs], check=False)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        full = gptx()
        assert full.code == 1, full
        assert "No space left" in full.err.splitlines()[-1] and "Traceback" not in full.err
        subprocess.run(["mount", "-o", "remount,ro", gptx.outputs], check=True)
        locked = gptx()
        assert locked.code in (1, 2)
        [line] = locked.err.splitlines()
        assert line.startswith("gptx: ") and "Read-only" in line
        subprocess.run(["mount", "-o", "remount,rw,size=16m", gptx.outputs], check=True)
        roomy = gptx()
        assert roomy.code == 0, roomy.err
        assert history(gptx.folder) == history(trained.folder)
    finally:
        subprocess.run(["umount", "-l", gptx.outputs], check=True)


# ------------------------------------------------------------------------------------- experiments


@pytest.mark.full
@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_trains(gptx: Gptx, path: Path) -> None:
    """A few steps of each, with the text and the sizes of the tests."""
    done = gptx(f"experiment={path.stem}", "trainer.max_steps=4", "schedule.warmup=0.25")
    assert done.code == 0, done.err
    assert gptx.folder.parent.name == path.stem


@pytest.mark.full
def test_default_command_learns_english(gptx: Gptx) -> None:
    """The first command of the README, without any override, learns its default corpus."""
    run = gptx.popen("gptx.run")
    out, err = run.communicate(timeout=5 * DEADLINE)
    assert run.returncode == 0, err
    result = json.loads((gptx.folder / "result.json").read_text())
    assert result["val_loss"] < 1.4
    assert all(part in out for part in ("sample after 800 steps", "gptx generate", "gptx compare"))


# ---------------------------------------------------------------------- commands that read finished runs


def generated(trained: Trained, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert generate([str(trained.folder), "--tokens", "60", *words]) == 0
    return capsys.readouterr().out


def test_generate_depends_on_seed_only(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ("--prompt", "The state")
    first = generated(trained, capsys, *prompt, "--seed", "1")
    assert first.startswith("The state") and len(first) > 40
    assert generated(trained, capsys, *prompt, "--seed", "1") == first
    assert generated(trained, capsys, *prompt, "--seed", "2") != first
    greedy = generated(trained, capsys, *prompt, "--temperature", "0")
    assert generated(trained, capsys, *prompt, "--temperature", "0", "--seed", "5") == greedy
    assert generated(trained, capsys, *prompt, "--temperature", "1e-50", "--seed", "5") == greedy
    assert generated(trained, capsys, *prompt, "--top-k", "1", "--seed", "5") == greedy
    assert generated(trained, capsys, *prompt, "--top-p", "1e-9", "--seed", "5") == greedy


def test_generate_is_equal_with_and_without_cache(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ("--prompt", "The state of the union is", "--seed", "3")  # longer than the context, too
    assert generated(trained, capsys, *prompt) == generated(trained, capsys, *prompt, "--no-cache")


def test_generate_stops_at_a_token(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    complete = generated(trained, capsys, "--prompt", "x", "--seed", "4").removesuffix("\n")
    letter = next(c for c in complete[5:] if c.isascii() and c.isprintable() and c != complete[0])
    cut = generated(trained, capsys, "--prompt", "x", "--seed", "4", "--stop", letter).removesuffix("\n")
    assert cut == complete[: complete.index(letter, 1)]


def test_generate_streams_tokens(trained: Trained) -> None:
    """The first tokens are printed before the last is computed: this text would take days."""
    words = [str(trained.folder), "--prompt", "The state", "--tokens", "1000000000"]
    process = trained.gptx.popen("gptx.generate", *words)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(100).startswith("The state")
    process.stdout.close()  # as `| head` does
    assert process.wait(DEADLINE) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere"], "nowhere is not a run folder"),
        (["RUN", "--temperature", "-1"], "--temperature >= 0"),
        (["RUN", "--tokens", "0"], "--tokens >= 1"),
        (["RUN", "--stop", "two"], "3 tokens"),
        (["RUN", "--tokens", "x"], "argument --tokens: invalid int value: 'x'"),
        (["RUN", "--temprature", "1"], "--temprature 1; gptx generate --help lists"),
        (["EMPTY"], "no best weights"),
    ],
    ids=lambda value: str(value),
)
def test_generate_reports_mistakes_in_one_line(
    words: list[str], part: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("")
    places = {"RUN": str(trained.folder), "EMPTY": str(tmp_path)}
    code = generate([places.get(word, word) for word in words])
    shown = capsys.readouterr()
    assert code == (1 if "best weights" in part else 2)
    [line] = shown.err.splitlines()
    assert part in line and shown.out == ""


def test_generate_without_a_run_is_rejected_without_torch(gptx: Gptx, without_torch: WarmParent) -> None:
    one_line(gptx.run("gptx.generate", "nowhere"), "nowhere", "config.yaml")


def test_compare_shows_a_row_for_each_variant(trained: Trained, ddp: Gptx, tmp_path: Path) -> None:
    paths = [str(trained.gptx.outputs), str(ddp.outputs)]
    done = trained.gptx.run(
        "gptx.compare", *paths, "--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")
    )
    assert done.code == 0, done.err
    variants = json.loads((tmp_path / "a.json").read_text())["variants"]
    assert sorted(row["strategy"] for row in variants) == ["ddp", "single"]
    for row in variants:
        assert row["val_loss_mean"] == pytest.approx(
            json.loads((trained.folder / "result.json").read_text())["val_loss"]
        )
    assert "ddp" in done.out and "single" in done.out
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3


@pytest.mark.full
def test_sync_twice_writes_each_row_once(trained: Trained, ddp: Gptx, gptx: Gptx) -> None:
    """Runs that were trained without tracking are written to MLflow later."""
    for source in (trained.folder, ddp.folder):
        shutil.copytree(source, gptx.outputs / "default" / source.name)
    seen = []
    for new in (True, False):
        done = gptx.run("gptx.sync", "outputs/")
        assert done.code == 0, done.err
        assert "2 of 2 runs" in done.out and (", 0 new" in done.out) == (not new)
        seen.append([contents(database(gptx.outputs), uid_of(folder)) for folder in gptx.folders()])
    assert seen[0] == seen[1]
    for found, folder in zip(seen[0], gptx.folders(), strict=True):
        rows = [(key, step, t) for key, _, _, t, step in found["metrics"] if not key.startswith("final/")]
        assert sorted(rows) == sorted(rows_of(folder))
        assert (found["status"], found["models"]) == ("FINISHED", [(1,)])
