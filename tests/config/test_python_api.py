"""The Python API (compose, build, load), and variants of a user from outside the package."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import OWN, ROOT, Gptx
from conftest import Trained
from helpers_model import parameter_count

import gptx as api
from gptx.data.batches import read_rows, validation_starts
from gptx.data.from_config import corpus_of
from gptx.data.tokens import prepare
from gptx.errors import CheckpointError, ConfigError, GptxError
from gptx.training.best_weights import load_best

CONF = ROOT / "conf"
PRESETS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SMALL = ["model.n_layer=2", "model.d_model=32", "model.context=16", "device=cpu", "precision=fp32"]


def test_public_names_of_the_package() -> None:
    assert sorted(api.__all__) == ["build", "compare_runs", "compose", "curves", "load", "results"]
    assert api.__version__


def test_compose_returns_the_requested_config() -> None:
    cfg = api.compose(["attention=gqa", "pos=rope", "trainer.max_steps=7", "optim.lr=1"])
    assert cfg.attention.n_kv_head == 2
    assert cfg.variant.attention == "gqa" and cfg.variant.pos == "rope"
    assert cfg.trainer.max_steps == 7
    assert isinstance(cfg.optim.lr, float)  # the type of the default in the YAML
    assert api.compose().variant.attention == "mha"
    assert "hydra" not in cfg


@pytest.mark.parametrize(
    "wrong", ["attention=gqq", "model.n_layers=3", "+foo=1", "seed=x", "seed=0,1", "attention", "+match.target=5"]
)
def test_compose_rejects_in_one_line(wrong: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        api.compose([wrong])
    assert isinstance(rejected.value, GptxError) and not isinstance(rejected.value, ValueError)
    assert "\n" not in str(rejected.value)
    assert api.compose(["attention=gqa"]).attention.n_kv_head == 2  # after an error, compose works again


@pytest.mark.parametrize("wrong", ["attention=gqa", [None], [("attention", "gqa")]])
def test_compose_expects_a_list_of_texts(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"overrides=.*: expected a list of texts, such as \['attention=gqa'"):
        api.compose(wrong)


def test_built_model_maps_tokens_to_logits() -> None:
    cfg = api.compose([*SMALL, "attention=gqa", "pos=rope"])
    model = api.build(cfg)
    tokens = torch.randint(0, 257, (3, 16))
    assert model(tokens).shape == (3, 16, 257)
    assert model(tokens, tokens).shape == ()
    other = api.build(cfg).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())
    seeded = api.build(api.compose([*SMALL, "attention=gqa", "pos=rope", "seed=1"])).state_dict()
    assert not torch.equal(seeded["embed.weight"], other["embed.weight"])


def test_untied_output_layer_adds_one_matrix() -> None:
    tied, untied = (api.build(api.compose([*SMALL, f"model.tie={tie}"])) for tie in ("true", "false"))
    count = [parameter_count(model) for model in (tied, untied)]
    assert count[1] - count[0] == 257 * 32
    tokens = torch.randint(0, 257, (1, 16))
    assert untied(tokens).shape == tied(tokens).shape == (1, 16, 257)
    untied(tokens, tokens).backward()
    assert untied.head is not None and untied.head.weight.grad is not None and untied.embed.weight.grad is not None


def test_build_rejects_parts_that_do_not_fit() -> None:
    for words, part in (
        (["attention=gqa", "attention.n_kv_head=3"], "attention.n_kv_head=3"),
        (["model.d_model=36", "model.n_head=4", "pos=rope"], "even head_dim"),
        (["model.vocab_size=100"], "257"),
    ):
        with pytest.raises(ConfigError, match=part):
            api.build(api.compose([*SMALL, *words]))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_and_builds(preset: str) -> None:
    cfg = api.compose([f"model={preset}"])
    with torch.device("meta"):
        model = api.build(cfg)
    assert model.shape.n_layer == cfg.model.n_layer
    assert model.embed.num_embeddings == (cfg.model.vocab_size or 257)
    assert len(model.blocks) == cfg.model.n_layer


def test_build_fits_a_tokenizer_that_learns(corpus: Path, tmp_path: Path) -> None:
    words = ["data=text", f"data.path={corpus}", f"paths.data={tmp_path}", *SMALL]
    model = api.build(api.compose([*words, "tokenizer=bpe", "tokenizer.vocab_size=300"]))
    assert model.embed.num_embeddings == 300
    letters = set(corpus.read_text())
    model = api.build(api.compose([*words, "tokenizer=char"]))
    assert model.embed.num_embeddings == len(letters)


def test_loaded_model_has_the_validation_loss_of_the_result(trained: Trained) -> None:
    """The loss over the validation set, computed here independently, equals that of the result."""
    model, tokenizer = api.load(trained.folder, device="cpu")
    result = json.loads((trained.folder / "result.json").read_text())
    assert not model.training
    assert tokenizer.decode(tokenizer.encode("The state")) == "The state"
    cfg = api.compose(trained.gptx.tiny)
    tokens = prepare(corpus_of(cfg), tokenizer, Path(cfg.paths.data), quiet=True)
    rows = torch.from_numpy(read_rows(tokens.val, validation_starts(len(tokens.val), 16, 512), 16))
    with torch.no_grad():
        loss = float(model(rows[:, :-1], rows[:, 1:]))
        bits = loss * rows[:, 1:].numel() / math.log(2) / sum(tokenizer.token_bytes()[rows[:, 1:].flatten()])
    assert result["best_step"] == result["steps"], "the best weights are not those of the last validation"
    assert loss == pytest.approx(result["val_loss_whole"], rel=1e-5)
    assert bits == pytest.approx(result["val_bpb_whole"], rel=1e-5)
    assert parameter_count(model) == result["n_params"]


def test_load_needs_only_the_run_folder(trained: Trained, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(trained.folder, tmp_path / "moved to another folder"))
    model, _ = api.load(str(elsewhere), device="cpu")
    assert load_best(elsewhere / "checkpoints")[1]["step"] == "30"
    assert torch.equal(model.embed.weight, api.load(trained.folder, device="cpu")[0].embed.weight)
    shutil.rmtree(elsewhere / "checkpoints")
    with pytest.raises(CheckpointError, match="no best weights"):
        api.load(elsewhere)


def test_variant_of_a_user_trains(gptx: Gptx) -> None:
    """A module on the path and a YAML in --config-dir are enough, and the keys of that YAML are checked too."""
    words = ["--config-dir", str(OWN / "conf"), "attention=scaled", "attention.gain=0.5"]
    wrong = gptx(*words, "attention.gian=1")
    assert wrong.code == 2
    assert "'attention.gain'" in wrong.err and len(wrong.err.splitlines()) == 1
    done = gptx(*words)
    assert done.code == 0, done.err
    assert gptx.folder.name.startswith("scaled·rope·full·single·s0-")
    result = json.loads((gptx.folder / "result.json").read_text())
    assert result["variant"]["attention"] == "scaled"
    assert result["config"]["attention"] == {"_target_": "mine.Scaled", "gain": 0.5}
    generated = gptx.run("gptx.generate", str(gptx.folder), "--prompt", "The", "--tokens", "20", "--trust", "mine")
    assert generated.code == 0 and generated.out.startswith("The")
    missing = gptx.run("gptx.run", *gptx.tiny, *words, PYTHONPATH=str(OWN.parents[1]))
    assert missing.code == 0  # a finished run is shown without its code
    missing = gptx.run("gptx.run", *gptx.tiny, *words, "seed=1", PYTHONPATH=str(OWN.parents[1]))
    assert missing.code == 2
    assert "mine.Scaled" in missing.err and len(missing.err.splitlines()) == 1


def test_own_options_are_composed_and_built_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN))
    cfg = api.compose([*SMALL, "attention=scaled", "attention.gain=0.5"], config_dir=OWN / "conf")
    assert type(api.build(cfg).blocks[0].attention).__name__ == "Scaled"
    with pytest.raises(ConfigError, match=r"'attention\.gian'"):
        api.compose([*SMALL, "attention=scaled", "attention.gian=0.5"], config_dir=str(OWN / "conf"))
    with pytest.raises(ConfigError, match=r"unknown option attention=scaled"):
        api.compose(["attention=scaled"])
    with pytest.raises(ConfigError, match=r"config_dir .*nothing: this folder does not exist"):
        api.compose(["attention=scaled"], config_dir=tmp_path / "nothing")


def test_load_says_what_is_missing(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing does not exist; expected the folder of a run"):
        api.load(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; expected the folder of a run"):
        api.load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no config\.yaml"):
        api.load(tmp_path / "empty")
    run = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints/best")
    with pytest.raises(CheckpointError, match="the run is finished, but the file is missing"):
        api.load(run)
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(line for line in lines if '"kind": "end"' not in line))
    with pytest.raises(CheckpointError, match="the run is killed at step 30 and has not reached its first validation"):
        api.load(run)


def test_user_option_with_the_name_of_a_built_in_is_rejected(gptx: Gptx) -> None:
    """Hydra would use gptx's file without a warning."""
    (gptx.cwd / "own" / "window").mkdir(parents=True)
    (gptx.cwd / "own" / "window" / "sliding.yaml").write_text("_target_: gptx.window.full.Full\n")
    done = gptx("--config-dir", "own", "window=sliding")
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "window=sliding is an option of gptx, and" in done.err and "own/window/sliding.yaml" in done.err
    assert gptx("--config-dir", "own", "window=full").code == 0


def test_load_replaces_a_kernel_that_needs_another_device(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, elsewhere := tmp_path / "run")
    text = (elsewhere / "config.yaml").read_text()
    assert "gptx.kernel.auto.Auto" in text
    (elsewhere / "config.yaml").write_text(text.replace("gptx.kernel.auto.Auto", "gptx.kernel.flex.Flex"))
    model, _ = api.load(elsewhere, device="cpu")
    row = torch.zeros(1, 8, dtype=torch.long)
    assert torch.equal(model(row), api.load(trained.folder, device="cpu")[0](row))
