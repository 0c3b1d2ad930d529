"""The identity of a run: which keys change it, which do not, and runs with an identity of scheme 1."""

import functools
import importlib
import json
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import Gptx, records
from composed import composed
from fake_runs import ask, database
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import gptx as api
from gptx.compare.run_rows import read_rows
from gptx.compare.summary import summarise
from gptx.config import axes, class_ids, identity_v1, instantiate
from gptx.config import identity as scheme_2
from gptx.config.identity import identity, result_keys, revisions
from gptx.config.overrides import conf_dir
from gptx.config.plain_dict import plain_dict
from gptx.config.saved_config import load_config
from gptx.errors import ConfigError
from gptx.runs import journal
from gptx.runs.records import VALIDATION
from gptx.sweep.plan.cells import compose_cells

# A copy of the list in the package: a key that drops out of the identity by mistake fails a test.
IGNORED = {"tracking", "runtime", "sweep", "paths", "study", "about", "force", "dry_run", "match", "variant"}
IGNORED_KEYS = {"data.path", "tokenizer.path", "resume_from", "strategy.nproc", "strategy.timeout", "strategy.restarts"}
IGNORED_KEYS |= {"strategy.reshard", "strategy.prefetch", "strategy.offload", "activation_checkpointing"}


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from leaves(value, name)
        else:
            yield name, value


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [changed(value[0]), *value[1:]] if value else [1]
    return value + "x" if isinstance(value, str) else value + 1


@functools.cache
def all_leaves() -> dict[str, Any]:
    """Every key of the default config, with its value; without Hydra's ``_partial_``."""
    return {key: value for key, value in leaves(OmegaConf.to_container(composed())) if not key.endswith("._partial_")}


def ignored() -> set[str]:
    """Keys of the default config that are not part of the identity."""
    return {key for key in all_leaves() if key.partition(".")[0] in IGNORED or key in IGNORED_KEYS}


# Keys that change the identity


def test_identity_changes_with_every_key_that_decides_the_result() -> None:
    cfg, found = composed(), {}
    name = identity(cfg, "corpus")
    assert len(name) == 10 and int(name, 16) >= 0
    assert len(all_leaves()) - len(ignored()) > 40 and len(ignored()) > 10
    for key, value in all_leaves().items():
        OmegaConf.update(cfg, key, changed(value))
        found[key] = identity(cfg, "corpus")
        OmegaConf.update(cfg, key, value)
    assert identity(cfg, "corpus") == name
    assert {key for key, other in found.items() if other == name} == ignored()
    counted = [other for key, other in found.items() if key not in ignored()]
    assert len(set(counted)) == len(counted), "two different runs have one identity"


@settings(max_examples=30)
@given(data=st.data())
def test_identity_does_not_change_with_ignored_keys(data: st.DataObject) -> None:
    values, cfg = all_leaves(), composed()
    other = data.draw(st.sampled_from(sorted(set(values) - ignored())))
    OmegaConf.update(cfg, other, changed(values[other]))
    name = identity(cfg, "corpus")
    free = ignored() - ({"strategy.nproc"} if other == "model.dropout" else set())
    for key in data.draw(st.sets(st.sampled_from(sorted(free)))):
        OmegaConf.update(cfg, key, changed(values[key]))
    assert identity(cfg, "corpus") == name


def test_number_of_processes_counts_only_with_dropout() -> None:
    """Each process draws its own dropout masks."""

    def identities(*overrides: str) -> set[str]:
        return {identity(composed("strategy=ddp", f"strategy.nproc={n}", *overrides), "c") for n in (2, 4)}

    assert len(identities()) == 1
    assert len(identities("model.dropout=0.1")) == 2


def test_corpus_counts_by_its_fingerprint_not_by_its_path() -> None:
    a, b = composed("data=text", "data.path=a.txt"), composed("data.path=/b/*.txt", "data=text")
    assert identity(a, "same") == identity(b, "same")
    assert identity(a, "same") != identity(a, "other")
    assert identity(a, "same") != identity(composed(), "same"), "another corpus class may split the text differently"


def test_equal_values_in_another_notation_do_not_change_the_identity() -> None:
    plain = composed("attention=mha", "seed=1", "trainer.clip=1.0", "trainer.max_steps=1000")
    other = composed("trainer.max_steps=1e3", "trainer.clip=1", "++seed=1", "runtime.keep=9", "study=elsewhere")
    assert identity(plain, "c") == identity(other, "c")


def test_names_of_options_and_presets_do_not_count() -> None:
    mha = composed("attention=mha")
    assert identity(composed("attention=gqa", "attention.n_kv_head=4"), "c") == identity(mha, "c")
    small = OmegaConf.load(conf_dir() / "model" / "small.yaml")
    keys = [f"model.{key}={value}" for key, value in small.items()]
    assert identity(composed("model=small"), "c") == identity(composed("model=nano", *keys), "c")


def test_another_spelling_of_a_config_finds_the_run(gptx: Gptx) -> None:
    assert gptx("attention=mha").code == 0
    again = gptx("attention=gqa", "attention.n_kv_head=4", "model.n_head=4")
    assert again.code == 0 and "finished already" in again.out
    assert gptx.folder.name.startswith("mha·")


def test_only_hydras_keys_of_building_are_ignored() -> None:
    def name(**keys: Any) -> str:
        cfg = composed()
        for key, value in keys.items():
            OmegaConf.update(cfg, f"pos.{key}", value, force_add=True)
        return identity(cfg, "c")

    assert name(_convert_="all", _recursive_=False, _partial_=False) == name()
    assert len({name(), name(_args_=[1]), name(_args_=[2])}) == 3


# Declarations beside the classes


def targets() -> dict[Path, str]:
    """The ``_target_`` of every option of an axis that has one."""
    found = {}
    for axis in axes.axes():
        for path in sorted((conf_dir() / axis.name).glob("*.yaml")):
            content = yaml.safe_load(path.read_text()) or {}
            if "_target_" in content and axis.name != "experiment":
                found[path] = content["_target_"]
    return found


def test_every_built_in_class_declares_a_unique_id() -> None:
    declarations = {target: class_ids.declaration(target) for target in targets().values()}
    assert len(declarations) > 60
    assert [target for target, found in declarations.items() if found is None] == []
    ids = [found.id for found in declarations.values() if found]
    assert len(set(ids)) == len(ids), "two classes have one id"
    for path, target in targets().items():
        found = declarations[target]
        assert found and found.id.partition(".")[0] == path.parent.name and found.revision >= 1
        assert found.added_keys.keys() <= yaml.safe_load(path.read_text()).keys()


def test_missing_source_file_of_a_built_in_class_is_an_error() -> None:
    cfg = composed()
    cfg.attention._target_ = "gptx.attention.nothing.Nothing"
    with pytest.raises(ConfigError, match=r"gptx\.attention\.nothing is not a module of gptx"):
        identity(cfg, "c")
    target = result_keys(plain_dict(cfg), {})["attention._target_"]
    assert target == "gptx.attention.nothing.Nothing", "a finished run of a removed class was rejected"


def test_options_of_one_class_share_its_id() -> None:
    cfgs = [composed(f"attention={option}") for option in ("mha", "gqa", "mqa")]
    assert {result_keys(plain_dict(cfg))["attention._target_"] for cfg in cfgs} == {"attention.gqa r1"}


def test_users_class_counts_by_its_path() -> None:
    cfg = composed()
    cfg.attention._target_ = "mine.Scaled"
    assert result_keys(plain_dict(cfg))["attention._target_"] == "mine.Scaled"
    assert "attention.gqa" not in revisions(cfg)


def test_module_of_a_built_in_class_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before, cfg = identity(composed(), "c"), composed()
    monkeypatch.setitem(class_ids.FORMER_TARGETS, "gptx.attention.former.Place", "gptx.attention.gqa.GQA")
    cfg.attention._target_ = "gptx.attention.former.Place"
    assert identity(cfg, "c") == before


def declare(monkeypatch: pytest.MonkeyPatch, target: str, **changes: Any) -> None:
    """Change what the class of ``target`` declares."""
    original = class_ids.declaration

    def declaration(asked: str) -> class_ids.Declaration | None:
        found = original(asked)
        return replace(found, **changes) if found and asked == target else found

    for module in (scheme_2, identity_v1):
        monkeypatch.setattr(module, "declaration", declaration)


def test_raised_revision_changes_the_identity_and_ends_the_search_for_earlier_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = identity(composed(), "c")
    assert identity_v1.identity_v1(composed(), "c")
    with monkeypatch.context() as patch:
        declare(patch, "gptx.pos.rope.RoPE", revision=2)
        assert identity(composed(), "c") != before
        assert revisions(composed())["pos.rope"] == 2
        assert identity_v1.identity_v1(composed(), "c") is None
        assert result_keys(plain_dict(composed()), {})["pos._target_"] == "pos.rope r1"  # the config of an earlier run
    monkeypatch.setattr(scheme_2, "CORE_REVISION", 2)
    assert identity(composed(), "c") != before
    assert identity_v1.identity_v1(composed(), "c") is None


def test_added_key_counts_only_when_it_differs_from_earlier_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    before, former = identity(composed(), "c"), identity_v1.identity_v1(composed(), "c")
    cfg = composed()
    OmegaConf.update(cfg, "pos.added", 1.0, force_add=True)
    OmegaConf.update(cfg, "trainer.added", 0, force_add=True)
    assert identity(cfg, "c") != before
    declare(monkeypatch, "gptx.pos.rope.RoPE", added_keys={"added": 1.0})
    monkeypatch.setitem(scheme_2.ADDED_KEYS, "trainer.added", 0)
    assert identity(cfg, "c") == before
    assert identity_v1.identity_v1(cfg, "c") == former
    cfg.pos.added = 2.0
    assert identity(cfg, "c") != before
    assert identity_v1.identity_v1(cfg, "c") is None


# Scheme 1: runs made by commit a71c028

# Targets of all options at that commit.
FORMER = """
attention.differential.Differential attention.forgetting.Forgetting attention.gated.Gated attention.gqa.GQA
attention.mla.MLA attention.sink.Sink data.hub.HubCorpus data.pydocs.Pydocs data.shakespeare.Shakespeare
data.sotu.Sotu data.text.Text ffn.geglu.GeGLU ffn.gelu.GELU ffn.moe.MoE ffn.relu.ReLU ffn.relu2.ReLU2
ffn.swiglu.SwiGLU kernel.auto.Auto kernel.banded.Banded kernel.flash.Flash kernel.flex.Flex
kernel.reference.Reference kernel.sdpa.SDPA norm.layernorm.LayerNorm norm.rmsnorm.RMSNorm placement.peri.Peri
placement.post.Post placement.pre.Pre pos.alibi.ALiBi pos.fire.FIRE pos.irope.IRoPE pos.kerple.Kerple
pos.learned.Learned pos.none.NoPE pos.rope.RoPE pos.rope_alpha.RoPEAlpha pos.rope_dual.RoPEDual
pos.rope_linear.RoPELinear pos.rope_llama3.RoPELlama3 pos.rope_ntk.RoPENTK pos.rope_partial.RoPEPartial
pos.rope_yarn.RoPEYaRN pos.sinusoidal.Sinusoidal pos.t5.T5 pos.xpos.XPos schedule.constant schedule.cosine
schedule.wsd strategy.cp.CP strategy.ddp.DDP strategy.fsdp.FSDP strategy.fsdp_tp.FSDPTP strategy.hsdp.HSDP
strategy.pp.PP strategy.single.Single strategy.tp.TP tokenizer.bpe.BPE tokenizer.byte.Byte tokenizer.char.Char
tokenizer.gpt2.GPT2 window.alternating.Alternating window.chunked.Chunked window.dilated.Dilated window.full.Full
window.sliding.Sliding window.sliding_sink.SlidingSink window.strided.Strided
"""


@pytest.mark.parametrize("target", [*(f"gptx.{name}" for name in FORMER.split()), "torch.optim.AdamW"])
def test_every_former_target_has_a_current_class(target: str) -> None:
    assert class_ids.declaration(target) is not None
    assert class_ids.current_target(target) in targets().values()


SOTU = "8288e06935cbaa04b3f1f92eefa11150ef1c60c8d568be02a2cd812e0a0eecad"  # fingerprint of data=sotu
SIZES = ["trainer.max_steps=20", "trainer.eval_every=10", "trainer.val_tokens=4096", "model.n_layer=2"]
SIZES += ["model.context=64", "trainer.batch_size=8"]
KNOWN = {  # identities computed by commit a71c028
    "06c44fc982": "attention=mha pos=learned",
    "a5ef5404b6": "attention=gqa pos=rope window=sliding",
    "a6fa9f22ce": "attention=mla pos=rope_yarn ffn=swiglu norm=rmsnorm",
    "8115836c22": "attention=differential attention.lambda_rise=0 attention.norm_weight=false pos=alibi "
    "placement=peri schedule=wsd",
    "c038449797": "attention=forgetting pos=fire pos.shared=true ffn=moe tokenizer=char",
    "412aa4e3e9": "attention=sink pos=irope window=alternating data.document_mask=true model.dropout=0.1 "
    "schedule=constant",
    "faea595231": "attention=gqa pos=rope strategy=ddp precision=fp32",
    "56f408207f": "attention=gqa pos=rope strategy=fsdp precision=fp32",
    "9c5e5bb5f4": "attention=gqa pos=rope strategy=cp precision=fp32",
    "e97aea7771": "attention=gqa pos=rope strategy=pp precision=fp32",
}


@pytest.mark.parametrize(("known", "overrides"), KNOWN.items(), ids=KNOWN.values())
def test_identities_of_scheme_1_are_unchanged(known: str, overrides: str) -> None:
    cfg = composed(*SIZES, *overrides.split())
    assert identity_v1.identity_v1(cfg, SOTU) == known
    assert identity(cfg, SOTU) != known


OVERRIDES = """
tracking=off data=text data.path=text.txt paths.outputs=outputs attention=gqa pos=learned window=sliding
window.size=4 schedule=wsd model.n_layer=1 model.n_head=2 model.d_model=8 model.context=8 precision=fp32 device=cpu
trainer.max_steps=4 trainer.batch_size=4 trainer.eval_every=2 trainer.val_tokens=64 runtime.sample_tokens=0
runtime.brief=true runtime.log_every=1
"""


def unpack(place: Path) -> Path:
    """The folder of a finished run that commit a71c028 made with `OVERRIDES`, and its text, in the folder ``place``."""
    packed = Path(__file__).parent / "data" / "run_of_scheme_1.tar.xz"
    with lzma.open(packed) as file, tarfile.open(fileobj=file) as archive:
        archive.extractall(place, filter="data")
    [folder] = journal.runs(place / "outputs")
    return folder


def interrupt(folder: Path) -> None:
    """Make a finished run an interrupted one."""
    (folder / "result.json").unlink()
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join(lines[:-1]))


def test_command_shows_the_result_of_a_finished_run_of_scheme_1(gptx: Gptx) -> None:
    folder = unpack(gptx.cwd)
    done = gptx.run("gptx.run", *OVERRIDES.split())
    assert done.code == 0
    [warning] = done.err.splitlines()
    assert f"validation metrics had another definition (1, now {VALIDATION})" in warning
    assert done.out.startswith("finished already: val loss 5.5245") and folder.name in done.out
    assert gptx.folder == folder


def test_unfinished_run_of_scheme_1_is_rejected_and_force_trains_it_again(gptx: Gptx) -> None:
    folder = unpack(gptx.cwd)
    interrupt(folder)
    rejected = gptx.run("gptx.run", *OVERRIDES.split())
    assert rejected.code == 2 and rejected.out == ""
    [line] = rejected.err.splitlines()
    assert line.startswith("gptx: ") and folder.name in line and "force=true" in line
    forced = gptx.run("gptx.run", *OVERRIDES.split(), "force=true")
    assert forced.code == 0, forced.err
    [start] = records(gptx.folder, "start")
    assert (start["identity_scheme"], start["replaces"]) == (2, "651a54d81e6f4937950b0a11d1678124")
    assert gptx.folder != folder and gptx.folder.name.endswith(start["identity"])
    [replaced] = (gptx.outputs / ".replaced" / "default").iterdir()
    before, after = (_training_values(run) for run in (replaced, gptx.folder))
    assert after == pytest.approx(before, rel=1e-5), "the losses are the same, up to the rounding of another processor"


def _training_values(run: Path) -> dict[tuple[int, str], float]:
    """What training computed; since then, validation has got another definition."""
    found = journal.computed(run)
    return {k: v for k, v in found.items() if isinstance(v, float) and k[1].startswith("train/")}


def test_finished_run_of_scheme_1_without_result_json_is_not_rejected(gptx: Gptx) -> None:
    """It was killed after the journal's end record, before result.json was written."""
    folder = unpack(gptx.cwd)
    (folder / "result.json").unlink()
    done = gptx.run("gptx.run", *OVERRIDES.split())
    assert done.code == 0
    [warning] = done.err.splitlines()
    assert f"validation metrics had another definition (1, now {VALIDATION})" in warning
    assert done.out.startswith("finished already: val loss 5.5245") and gptx.folder == folder


def test_interrupted_run_of_scheme_1_is_certified(gptx: Gptx) -> None:
    folder = unpack(gptx.cwd)
    interrupt(folder)
    done = gptx.run("gptx.certify", str(folder))
    assert done.code == 0, done.err


def test_cells_of_a_sweep_over_runs_of_scheme_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cell(*more: str) -> Any:
        [cell] = compose_cells([[*OVERRIDES.split(), *more]])
        return cell

    monkeypatch.chdir(tmp_path)
    folder = unpack(tmp_path).relative_to(tmp_path)
    hidden = folder.rename(folder.with_name("hidden"))
    name = cell().name
    hidden.rename(folder)
    assert cell().done and cell().folder.path == folder
    assert cell().name == name, "the name of a sweep depends on which runs exist"
    forced = cell("force=true")
    assert not forced.done and not forced.rejection and forced.folder.path.name == name
    interrupt(folder)
    assert "force=true" in cell().rejection and cell().name == name


def test_sweep_has_one_cell_for_two_spellings_of_a_computation() -> None:
    cells = compose_cells([[f"attention={option}", "model.n_head=1"] for option in ("mha", "mqa")])
    assert [cell.title for cell in cells] == ["attention=mha"]


def test_former_targets_of_a_saved_config_are_translated(tmp_path: Path) -> None:
    former = {"_target_": "gptx.schedule.cosine", "_partial_": True, "warmup": 0.1, "final": 0.1}
    OmegaConf.save(OmegaConf.create({**composed(), "schedule": former}), tmp_path / "config.yaml", resolve=True)
    assert load_config(tmp_path).schedule._target_ == "gptx.schedule.cosine.cosine"
    schedule = instantiate.part(OmegaConf.create(former))
    assert schedule(10, 10) == pytest.approx(0.1)


def test_former_targets_of_launchers_are_translated() -> None:
    for name in ("local.Local", "slurm.Slurm"):
        module, _, launcher = class_ids.current_target(f"gptx.sweep.{name}").rpartition(".")
        assert hasattr(importlib.import_module(module), launcher)


def test_target_that_is_not_callable_is_one_line() -> None:
    cfg = OmegaConf.create({"schedule": {"_target_": "gptx.schedule"}})
    with pytest.raises(ConfigError, match=r"^schedule\._target_=gptx\.schedule is not a function or a class") as error:
        instantiate.part(cfg.schedule)
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_run_of_scheme_1_is_loaded_compared_and_sent_to_mlflow(gptx: Gptx) -> None:
    folder = unpack(gptx.cwd)
    model, tokenizer = api.load(folder, device="cpu")
    assert tokenizer.decode(tokenizer.encode("state")) == "state"
    assert model(torch.zeros(1, 8, dtype=torch.long)).isfinite().all()
    [row] = summarise(read_rows([folder])).to_dict("records")
    assert (row["attention"], row["window"]) == ("gqa", "sliding")
    assert row["val_loss_mean"] == json.loads((folder / "result.json").read_text())["val_loss"]
    sent = gptx.run("gptx.sync", "outputs")
    assert sent.code == 0, sent.err
    [(params,)] = ask(database(gptx.outputs), "SELECT value FROM params WHERE key = 'attention'")
    assert params == "gqa"


def test_runs_of_both_schemes_are_one_variant_for_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unpack(tmp_path)
    monkeypatch.chdir(tmp_path)
    again = tmp_path / "outputs" / "again"
    again.mkdir()
    result = json.loads((folder / "result.json").read_text())
    cfg = composed(*OVERRIDES.split(), "seed=1")
    result |= {"config": plain_dict(cfg), "seed": 1, "revisions": revisions(cfg), "identity_scheme": 2}
    (again / "journal.jsonl").write_text("")
    (again / "result.json").write_text(json.dumps(result))
    [row] = summarise(read_rows([folder, again])).to_dict("records")
    assert (row["n"], row["seeds"]) == (2, [0, 1])
    result["revisions"]["attention.gqa"] = 2
    (again / "result.json").write_text(json.dumps(result))
    rows = summarise(read_rows([folder, again])).to_dict("records")
    assert {row["attention._target_"] for row in rows} == {"attention.gqa r1", "attention.gqa r2"}


def test_run_of_scheme_1_is_certified_and_continued_by_resume_from(gptx: Gptx) -> None:
    folder = unpack(gptx.cwd)
    certified = gptx.run("gptx.certify", str(folder), "--json")
    assert certified.code == 0, certified.err
    assert json.loads(certified.out)["from"] == 2
    words = [word for word in OVERRIDES.split() if not word.startswith("trainer.max_steps=")]
    done = gptx.run("gptx.run", *words, f"resume_from='{folder}'", "trainer.max_steps=6")
    assert done.code == 0, done.err
    [started] = [run for run in gptx.folders() if run != folder]
    [start] = records(started, "start")
    assert start["origin"] == {"identity": "44d8c55023", "uid": "651a54d81e6f4937950b0a11d1678124", "step": 4}
