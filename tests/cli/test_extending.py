"""docs/extending.md: its command trains with the attention, encoding, data set and tokenizer that it shows."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from command import ROOT
from conftest import Maker
from documented import FEW_STEPS, files
from helpers_model import arm, options, random_model, tiny
from omegaconf import OmegaConf
from proving import prove
from tiers import some

PAGE = "docs/extending.md"
TINY = [*FEW_STEPS, f"data.folder={ROOT / 'docs'}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page in an empty folder."""
    path = tmp_path_factory.mktemp("extending")
    for name, content in files(PAGE).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def test_command_of_the_page_trains(folder: Path, make: Maker) -> None:
    [command] = re.findall(r"python -m gptx\.run (--config-dir .*)", (ROOT / PAGE).read_text())
    gptx = make("extending")
    shutil.copytree(folder, gptx.cwd, dirs_exist_ok=True)
    done = gptx.run("gptx.run", *shlex.split(command), *TINY)
    assert done.code == 0, done.err
    assert "cosine·sandwich·full·single·s0" in done.out


@pytest.mark.parametrize("window", some(options("window"), "sliding"))
def test_attention_and_encoding_of_the_page_pass_every_proof(
    folder: Path, monkeypatch: pytest.MonkeyPatch, window: str
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    cfg = tiny(arm(window=window), bias=False)
    cfg.attention = OmegaConf.load(folder / "own/attention/cosine.yaml")
    cfg.pos = OmegaConf.load(folder / "own/pos/sandwich.yaml")
    prove(random_model(cfg))
