"""One run: what it prints, which files it writes, and what the same command does a second time."""

import json
import re
import shutil
from pathlib import Path

import pytest
from command import DEADLINE, OWN, ROOT, Gptx, Terminal, history, options_once, records
from conftest import Trained
from warm import WarmParent

from gptx.runs import journal
from gptx.training.best_weights import load_best


def test_run_prints_validations_sample_and_next_commands(trained: Trained) -> None:
    done = trained.done
    assert done.code == 0, done.err
    validations = re.findall(r"step (\d+)/30 .* val loss (\d\.\d{4}) +(\d\.\d{4}) bits/byte", done.err)
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


def test_log_of_a_run_begins_with_its_facts(trained: Trained) -> None:
    [start] = records(trained.folder, "start")
    facts = dict(re.findall(r"^  (\w+) +(.+)$", trained.done.err, re.MULTILINE))
    assert trained.done.err.splitlines()[0] == trained.folder.name
    assert trained.done.err.splitlines()[len(facts) + 1].startswith("step 10/30    33%   train loss ")
    assert facts == {
        "folder": str(trained.folder.relative_to(trained.gptx.cwd)),
        "command": start["command"],
        "device": f"cpu ({start['hardware']['name']}), float32, 1 thread",
        "strategy": "single, 1 process",
        "model": f"nano, {start['n_params']:,} parameters",
        "data": f"text as byte, {start['data']['train_tokens']:,} training tokens, "
        f"{start['data']['val_tokens']:,} validation tokens",
        "step": "8 rows x 16 tokens = 128 tokens",
        "steps": "30",
    }


def test_brief_run_prints_one_line(gptx: Gptx) -> None:
    assert gptx("runtime.brief=true", "runtime.until=10").err == ""
    done = gptx("runtime.until=20")
    assert "  steps     20, the first 10 are trained already\n" in done.err
    done = gptx("runtime.brief=true")
    assert done.err == "" and re.fullmatch(r"finished: val loss \d\.\d+, \d\.\d+ bits/byte +outputs/\S+\n", done.out)


def test_run_folder_has_every_file(trained: Trained) -> None:
    folder = trained.folder
    assert folder.parent == trained.gptx.outputs / "default"
    assert re.fullmatch(r"mha·rope·full·single·s0-[0-9a-f]{10}", folder.name)
    names = {path.name for path in folder.iterdir()}
    expected = {"config.yaml", "journal.jsonl", "result.json", "checkpoints", "samples", "tokenizer.json", "run.lock"}
    expected.add("validation.safetensors")
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
    curves = history(trained.folder)
    for view in ("", "_select", "_whole"):
        assert curves[f"val/loss{view}", 30] == result[f"val_loss{view}"]
    assert curves["val/loss", result["best_step"]] == result["val_loss_best"]
    lowest = min(value for (key, _), value in curves.items() if key == "val/loss_select")
    assert curves["val/loss_select", result["best_step"]] == lowest
    shown = re.search(
        r"val loss +(\S+) nats/token, report half\n +selection half (\S+), whole (\S+), best weights (\S+)\n",
        trained.done.out,
    )
    views = ("", "_select", "_whole", "_best")
    assert shown and shown.groups() == tuple(f"{result[f'val_loss{view}']:.4f}" for view in views)


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
    terminal = Terminal(gptx, "gptx.run", *gptx.tiny, "trainer.max_steps=300", warm=True)
    assert terminal.end() == 0, terminal.shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)
    bars = re.findall(r"(\d+)/300 +loss (\d\.\d{4}) +([\d,]+) tok/s +(\d:\d\d:\d\d|-:--:--)", plain)
    assert len(bars) > 1, plain
    assert bars[-1][0] == "300"
    assert "\x1b[?25h" in terminal.shown  # the cursor is shown again


def test_tracking_off_writes_no_mlflow_store(trained: Trained) -> None:
    assert [path.name for path in trained.gptx.outputs.iterdir()] == ["default"]
    assert not (trained.gptx.cwd / "mlruns").exists()


# The same command again


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
    again = trained.gptx.run("gptx.run", *options_once(*trained.gptx.tiny, *other), by=without_torch)
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


# Default and experiments


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
    out, err = run.communicate(timeout=10 * DEADLINE)  # without bf16 and beside other tests it takes long
    assert run.returncode == 0, err
    result = json.loads((gptx.folder / "result.json").read_text())
    assert result["val_loss"] < 1.4
    assert all(part in out for part in ("sample after 800 steps", "gptx generate", "gptx compare"))
