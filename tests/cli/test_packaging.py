"""The wheel works in an empty folder, and the example in the README works as it is printed."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command import ROOT
from conftest import Maker
from documented import FEW_STEPS
from helpers_model import arm, options, random_model, tiny
from omegaconf import OmegaConf
from proving import prove
from tiers import some

TINY = [*FEW_STEPS, "data=pydocs"]


def gptx(cwd: Path, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-m", "gptx.run", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_wheel_works_in_an_empty_folder(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("gptx-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for folder, home in (("conf", "gptx/conf"), ("experiments", "gptx/conf/experiment")):
        files = [p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*.yaml")]
        assert files and all(f"{home}/{file}" in names for file in files)

    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    empty = tmp_path / "an empty folder"
    empty.mkdir()
    sweep = gptx(empty, tmp_path / "site", "-m", "attention=mha,mqa", *TINY)
    assert sweep.returncode == 0, sweep.stderr
    assert [p.name for p in empty.iterdir()] == ["outputs"]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The module and the YAML file of the README's example, written to disk."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("## Add a variant in two files")[2]
    code, config = re.findall(r"```(?:python|yaml)\n(.*?)```", section, re.DOTALL)[:2]
    assert len(code.splitlines()) <= 20
    files = re.findall(r"`([\w/]+\.(?:py|yaml))`", section)[:2]
    for name, content in zip(files, (code, config), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_readme_example_trains(example: Path, make: Maker) -> None:
    text = (ROOT / "README.md").read_text().partition("## Add a variant in two files")[2]
    [words] = re.findall(r"`python -m gptx.run (--config-dir [^`]*)`", text)
    command = make("readme")
    shutil.copytree(example, command.cwd, dirs_exist_ok=True)
    done = command.run("gptx.run", *words.split(), *TINY)
    assert done.code == 0, done.err
    assert "mha·rope·logsparse·single·s0" in done.out


@pytest.mark.parametrize("attention", some(options("attention"), "gqa"))
def test_readme_example_passes_every_proof(attention: str, example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(example))
    cfg = tiny(arm(attention=attention), bias=True)
    cfg.window = OmegaConf.load(example / "own/window/logsparse.yaml")
    prove(random_model(cfg))
