"""Variants of the user's own: checked before they train, proven by `gptx prove`; a failure is recorded and compared."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import OWN, OWN_CONF, Gptx, one_line
from omegaconf import OmegaConf

from gptx.config.axes import own_axes
from gptx.config.compose import compose
from gptx.config.overrides import options
from gptx.config.own_options import own_options
from gptx.proofs.before_training import failed_checks
from gptx.proofs.combinations import combinations, proven
from gptx.proofs.small_model import small_model
from gptx.runs.folder import RunFolder
from gptx.runs.json_log import read

KEYS = {"ffn": {"ratio": 4.0, "tanh": True}, "norm": {"eps": 1e-5}}
FUTURE = "the logits at position 0 change by"
CHEATS = {  # class: axis, the beginning of each failure
    "NextToken": ("attention", [FUTURE, "logits (row, position, id) decoded token by token differ"]),
    "LearnsToCheat": ("attention", [FUTURE, "logits (row, position, id) decoded token by token differ"]),
    "OnlyInTraining": ("attention", [FUTURE]),
    "BatchMean": ("attention", ["the logits at position 1 change by", "the logits at position 1 change by"]),
    "Unused": ("attention", ["blocks.0.attention.forgotten takes no part in the forward"]),
    "Detached": ("attention", ["blocks.0.attention.gate takes no part in the forward"]),
    "NoCache": ("attention", ["a small model raised RuntimeError:"]),
    "Neighbour": ("attention", ["logits (row, position, id) decoded token by token differ"]),
    "Broken": ("attention", ["a small model raised RuntimeError:"]),
    "FutureFFN": ("ffn", [FUTURE, "logits (row, position, id) decoded token by token differ"]),
    "OverTime": ("norm", [FUTURE, "logits (row, position, id) decoded token by token differ"]),
    "NoMask": ("kernel", [FUTURE, "logits (row, position, id) decoded token by token differ"]),
    "Honest": ("attention", []),
}


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --config-dir with an option for each class: attention=nexttoken and so on."""
    folder = tmp_path_factory.mktemp("own options")
    for name, (axis, _) in CHEATS.items():
        path = folder / axis / f"{name.lower()}.yaml"
        path.parent.mkdir(exist_ok=True)
        OmegaConf.save({"_target_": f"cheating.{name}", **KEYS.get(axis, {})}, path)
    return folder


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(OWN))
    yield


@pytest.mark.parametrize("name", CHEATS)
def test_each_missing_property_is_found(name: str, conf: Path, tmp_path: Path) -> None:
    axis, expected = CHEATS[name]
    with own_options(conf):
        cfg = compose([f"{axis}={name.lower()}", "device=cpu", f"paths.data={tmp_path}"])
    assert own_axes(cfg) == (axis,)
    found = failed_checks(cfg)
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found
    assert failed_checks(cfg) == found, "read from the stored outcome"
    assert len(list((tmp_path / "checks").iterdir())) == 1


def test_key_that_holds_the_width_of_the_run_is_checked_at_that_width(tmp_path: Path) -> None:
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention/wide.yaml").write_text("_target_: cheating.Wide\nwidth: ${model.d_model}\n")
    with own_options(tmp_path):
        cfg = compose(["attention=wide", "device=cpu", f"paths.data={tmp_path}"])
    assert small_model(cfg).shape.d_model == cfg.model.d_model
    assert failed_checks(cfg) == []


def test_packed_documents_are_checked_where_the_run_packs_them(conf: Path, tmp_path: Path) -> None:
    with own_options(conf):
        cfg = compose(["attention=neighbour", "device=cpu", "data.document_mask=true", f"paths.data={tmp_path}"])
    assert [line for line in failed_checks(cfg) if "packed documents" in line]


def test_other_sizes_and_other_variants_are_checked_again(conf: Path, tmp_path: Path) -> None:
    for overrides in ([], ["model.n_head=2"], ["pos=alibi"], ["ffn=moe", "ffn.capacity=1.25"]):
        with own_options(conf):
            cfg = compose(["attention=honest", "device=cpu", f"paths.data={tmp_path}", *overrides])
        assert failed_checks(cfg) == []
    assert len(list((tmp_path / "checks").iterdir())) == 4


def test_models_of_gptx_are_not_checked(tmp_path: Path) -> None:
    assert failed_checks(compose(["device=cpu", f"paths.data={tmp_path}"])) == []
    assert not list(tmp_path.iterdir())


def test_a_cheat_is_refused_and_trains_only_on_request(conf: Path, gptx: Gptx, tmp_path: Path) -> None:
    cheat = ["--config-dir", str(conf), "attention=nexttoken", f"paths.data={tmp_path}"]
    one_line(gptx(*cheat), "attention=nexttoken fails the check before training", FUTURE, "runtime.unproven=true")
    assert not gptx.folders()

    allowed = gptx(*cheat, "runtime.unproven=true")
    assert allowed.code == 0, allowed.err
    assert "attention=nexttoken fails the check before training" in allowed.err
    folder = RunFolder(gptx.folder)
    start, result = folder.start_record(), folder.result()
    assert start is not None and result is not None
    assert start.failed_checks == result.failed_checks and FUTURE in result.failed_checks[0]
    assert any(record["kind"] == "event" and FUTURE in record["text"] for record in read(folder.path))

    assert gptx("attention=mha").code == 0
    compared = gptx.run("gptx.compare")
    assert compared.code == 0
    assert "not a fair comparison: attention=nexttoken fails" in " ".join((compared.out + compared.err).split())


def test_a_sweep_refuses_a_cheat_before_anything_runs(conf: Path, gptx: Gptx, tmp_path: Path) -> None:
    done = gptx("-m", "--config-dir", str(conf), "attention=mha,nexttoken", f"paths.data={tmp_path}")
    assert done.code == 2
    assert FUTURE in done.out + done.err
    assert not gptx.folders()


def test_prove_names_the_property_and_the_position(conf: Path, gptx: Gptx) -> None:
    done = gptx.run("gptx.prove", "window=sliding", "attention=unused", "pos=rope", "--config-dir", str(conf))
    assert done.code == 1
    assert "every parameter has a gradient" in done.out
    report = gptx.cwd / "report.json"
    done = gptx.run("gptx.prove", "attention=nexttoken", "--config-dir", str(conf), "--json", str(report))
    assert done.code == 1, done
    found = json.loads(report.read_text())
    assert len(found) > 17, "every encoding occurs"
    for one in found:
        if not one["rejection"]:
            assert one["failures"]["logits_do_not_depend_on_later_tokens"].startswith(FUTURE), one
    assert "attention=nexttoken" in done.out


def test_prove_prints_its_outcomes_instead_of_the_table(gptx: Gptx) -> None:
    done = gptx.run("gptx.prove", "ffn=gelu", "--json", "-")
    assert done.code == 0, done.err
    assert all(not one["failures"] for one in json.loads(done.out))
    assert not (gptx.cwd / "-").exists()


def test_kernel_of_the_user_is_compared_with_the_reference(conf: Path) -> None:
    overrides = ["kernel=nomask"]
    with own_options(conf):
        cfg = compose(["device=cpu", *overrides])
    configs = combinations(cfg, overrides)
    assert {one.variant.pos for one in configs} == set(options("pos")), "every encoding occurs"
    found = {failure.proof.__name__: failure.reason for failure in proven(cfg).failures}
    assert found["every_kernel_equals_the_reference"].startswith("kernel=cheating.NoMask differs from the reference")


@pytest.mark.parametrize(
    "pos", [["pos=rope"], pytest.param([], marks=pytest.mark.full)], ids=["rope", "every encoding"]
)
def test_prove_accepts_an_honest_variant(gptx: Gptx, pos: list[str]) -> None:
    done = gptx.run("gptx.prove", "attention=scaled", "ffn=gelu", *pos, *OWN_CONF)
    assert done.code == 0, done.out + done.err
    assert "Not true" not in done.out and "every parameter has a gradient" in done.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["attention=nothere"], "unknown option attention=nothere"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: this folder does not exist"),
        (["model.n_heads=3"], "unknown key 'model.n_heads'"),
    ],
)
def test_mistakes_of_prove_are_one_line(words: list[str], expected: str, gptx: Gptx) -> None:
    one_line(gptx.run("gptx.prove", *words), expected)
