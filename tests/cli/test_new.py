"""`gptx new AXIS NAME`: for every axis, what it writes trains and is proven, and nothing is replaced."""

import re
import shlex
from pathlib import Path

import pytest
from command import TINY, Gptx, one_line
from conftest import Maker
from omegaconf import OmegaConf

from gptx.config.axes import model_axes
from gptx.config.compose import compose
from gptx.config.new_option import template_axes, write_option
from gptx.config.own_options import own_options
from gptx.config.part_types import BASES, FUNCTIONS
from gptx.errors import ConfigError
from gptx.model import variants_table
from gptx.proofs.combinations import combinations, proven

AXES = template_axes()


@pytest.fixture(scope="module")
def project(make: Maker) -> Gptx:
    """A folder with a space in its name, in which every axis has an option `mine`."""
    gptx = make("my project")
    for axis in AXES:
        done = gptx.run("gptx.new", axis, "mine")
        assert done.code == 0, done.err
        assert f"wrote own/mine_{axis}.py\nwrote own/{axis}/mine.yaml\n" in done.out
        assert f"gptx run --config-dir own {axis}=mine" in done.out
        assert ("gptx prove" in done.out) == (axis in model_axes())
    return gptx


def test_every_axis_with_classes_has_a_template() -> None:
    assert set(AXES) == {*BASES, *FUNCTIONS} - {"hydra.launcher"}


def test_new_options_of_all_axes_train_together(project: Gptx) -> None:
    own = [f"{axis}=mine" for axis in AXES]
    done = project.run("gptx.run", "--config-dir", "own", *TINY, *own, "trainer.max_steps=1")
    assert done.code == 0, done.err
    assert "mine·mine·mine·mine" in done.out
    [command] = re.findall(r"^  gptx generate (.*)$", done.out, re.MULTILINE)
    assert command.endswith(" --config-dir own")
    generated = project.run("gptx.generate", *shlex.split(command), "--tokens", "4")
    assert generated.code == 0, generated.err


@pytest.mark.full
@pytest.mark.parametrize("axis", AXES)
def test_each_new_option_trains_and_is_proven(axis: str, project: Gptx) -> None:
    done = project.run("gptx.run", "--config-dir", "own", *TINY, f"{axis}=mine", "trainer.max_steps=1")
    assert done.code == 0, done.err
    if axis in model_axes():
        proof = project.run("gptx.prove", "--config-dir", "own", f"{axis}=mine")
        assert proof.code == 0, proof.out + proof.err
        assert "Not true" not in proof.out


@pytest.mark.parametrize("axis", model_axes())
def test_new_option_has_every_property(axis: str, project: Gptx) -> None:
    overrides = [f"{axis}=mine"]
    with own_options(project.cwd / "own"):
        cfg = compose(["device=cpu", *overrides])
    configs = combinations(cfg, overrides)
    assert len(configs) > 1
    found = [proven(one) for one in configs[:3]]
    assert [(one.name, one.failures) for one in found if one.failures] == []
    assert not all(one.rejection for one in found)


@pytest.mark.full
def test_options_of_the_user_are_listed_with_those_of_gptx(project: Gptx, gptx: Gptx) -> None:
    """From another folder than that of the project."""
    broken = project.cwd / "own/ffn/broken.yaml"
    broken.write_text("_target_: mine_ffn.Absent\n")
    done = gptx.run("gptx.variants", "--markdown", "--config-dir", str(project.cwd / "own"))
    broken.unlink()
    assert done.code == 0, done.err
    for axis in model_axes():
        [row] = re.findall(rf"^\| {axis}=mine \| (.*) \|$", done.out, re.MULTILINE)
        first = (project.cwd / f"own/{axis}/mine.yaml").read_text().splitlines()[0]
        assert row.startswith(first.removeprefix("# "))
    assert re.search(r"^\| attention=mha ", done.out, re.MULTILINE)
    assert "has no attribute 'Absent'" in done.out


def test_row_of_an_option_of_the_user(project: Gptx) -> None:
    """One row of `gptx variants`: an option that works, and one whose class does not exist."""
    broken = project.cwd / "own/ffn/broken.yaml"
    broken.write_text("_target_: mine_ffn.Absent\n")
    with own_options(project.cwd / "own"):
        base = compose(["device=cpu"])
        good, bad = (variants_table._row(base, "ffn", option, ()) for option in ("mine", "broken"))
    broken.unlink()
    assert good.description == "Two layers with SiLU, a copy to change" and good.cost is not None
    assert bad.cost is None and "has no attribute 'Absent'" in bad.rejects[0]


def test_nothing_is_replaced(tmp_path: Path) -> None:
    write_option("pos", "unique", tmp_path)
    for file in ("unique_pos.py", "pos/unique.yaml"):
        before = (tmp_path / file).read_text()
        with pytest.raises(ConfigError, match="exists and is not replaced"):
            write_option("pos", "unique", tmp_path)
        assert (tmp_path / file).read_text() == before
        (tmp_path / file).unlink()
        with pytest.raises(ConfigError, match="exists and is not replaced"):
            write_option("pos", "unique", tmp_path)
        (tmp_path / file).write_text(before)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["attenton", "mine"], "unknown axis attenton. Did you mean 'attention'? Expected one of: attention, data"),
        (["attention", "gqa"], "attention=gqa is an option of gptx"),
        (["attention", "Mine-2"], "'Mine-2' cannot be the name of an option"),
        (["schedule", "lambda"], "'lambda' cannot be the name of an option here"),
        (["attention", "attention"], "'attention' cannot be the name of an option here"),
        (["attention", "null"], "'null' cannot be the name of an option"),
        (["attention"], "required: NAME"),
    ],
)
def test_mistakes_are_one_line(words: list[str], expected: str, gptx: Gptx) -> None:
    one_line(gptx.run("gptx.new", *words), expected)
    assert not (gptx.cwd / "own").exists()


def test_names_of_classes_and_modules_follow_the_name(tmp_path: Path) -> None:
    new = write_option("attention", "my_first", tmp_path)
    assert OmegaConf.load(new.config)._target_ == "my_first_attention.MyFirst"
    assert "class MyFirst(Attention):" in new.code.read_text()
    assert "emplate" not in new.code.read_text() + new.config.read_text()
    data = write_option("data", "my_first", tmp_path)
    assert 'name = "my_first"' in data.code.read_text()
