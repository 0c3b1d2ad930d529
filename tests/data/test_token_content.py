"""Token files are checked by their content, and created again when a user's own corpus or tokenizer was edited."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import TINY, Gptx
from conftest import Maker
from helpers_data import TEXT, Listed

from gptx.data import token_files
from gptx.data.tokens import TokenSpec, prepare
from gptx.runs.provenance import own_source
from gptx.tokenizer.byte import Byte
from gptx.tokenizer.char import Char

pytestmark = pytest.mark.filterwarnings("error")


def overwrite(path: Path, keep_time: bool = False) -> None:
    """Change 100 tokens, not the length."""
    status = path.stat()
    ids = np.memmap(path, dtype=np.uint16, mode="r+")
    ids[100:200] = 7
    ids.flush()
    times = (status.st_atime_ns, status.st_mtime_ns + (0 if keep_time else 10**9))
    os.utime(path, ns=times)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    prepare(Listed([TEXT]), Byte(), tmp_path, quiet=True)
    return next(path for path in tmp_path.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_changed_tokens_are_created_again(home: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    before = (home / name).read_bytes()
    overwrite(home / name)
    again = prepare(Listed([TEXT]), Byte(), home.parent)
    assert (home / name).read_bytes() == before
    assert again.content_hash == prepare(Listed([TEXT]), Byte(), home.parent).content_hash
    assert "are damaged; creating them again" in caplog.text


def test_changed_tokens_with_an_old_time_are_found_by_a_thorough_check(home: Path) -> None:
    before = (home / "train.bin").read_bytes()
    overwrite(home / "train.bin", keep_time=True)
    prepare(Listed([TEXT]), Byte(), home.parent, quiet=True, thorough=True)
    assert (home / "train.bin").read_bytes() == before


def test_unchanged_files_are_not_read_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    real = token_files.file_hash
    monkeypatch.setattr(token_files, "file_hash", counted)
    first = prepare(Listed([TEXT]), Byte(), home.parent, quiet=True)
    assert hashed == ["tokenizer.json"]
    copy = shutil.copytree(home, home.parent / "copies" / home.name, copy_function=shutil.copyfile)  # with a new time
    for expected in (["tokenizer.json", "train.bin", "val.bin"], ["tokenizer.json"]):
        hashed.clear()
        assert prepare(Listed([TEXT]), Byte(), Path(copy).parent, quiet=True).content_hash == first.content_hash
        assert hashed == expected


def test_folders_of_earlier_versions_get_hashes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "hashes.json").unlink()
    monkeypatch.setattr("gptx.data.tokens._create", lambda *args: pytest.fail("created again"))
    prepare(Listed([TEXT]), Byte(), home.parent, quiet=True)
    assert json.loads((home / "hashes.json").read_text()).keys() == {"train.bin", "val.bin"}


def test_a_damaged_file_of_hashes_is_replaced(home: Path) -> None:
    for content in ("[]", '{"train.bin": 1}', "{", '{"train.bin": {"sha256": 1}}'):
        (home / "hashes.json").write_text(content)
        prepare(Listed([TEXT]), Byte(), home.parent, quiet=True)
        assert json.loads((home / "hashes.json").read_text()).keys() == {"train.bin", "val.bin"}


def test_the_command_does_not_train_on_changed_tokens(make: Maker) -> None:
    gptx = make("changed")
    data = f"paths.data={gptx.cwd / 'tokens'}"
    assert gptx(data).code == 0
    [path] = (gptx.cwd / "tokens").glob("*/train.bin")
    overwrite(path)
    done = gptx(data, "seed=1")
    assert done.code == 0 and "are damaged; creating them again" in done.err


def test_names_of_token_folders_never_change() -> None:
    spec = TokenSpec(
        corpus="text",
        corpus_hash="0" * 64,
        val_fraction=0.1,
        max_tokens=0,
        tokenizer="byte",
        tokenizer_spec="byte",
        format=1,
    )
    assert spec.folder_name == "a74141e332f1934d"
    assert own_source(Byte, Char) == ""


OWN = """
from gptx.data.text import Text

class Mine(Text):
    def documents(self, cache):
        return (str(text).replace("state", "REPLACED") for text in super().documents(cache))
"""


def test_edited_code_of_an_own_corpus_makes_new_tokens(gptx: Gptx, corpus: Path) -> None:
    module, conf = gptx.cwd / "own_corpus.py", gptx.cwd / "own/data/mine.yaml"
    conf.parent.mkdir(parents=True)
    keys = {"path": [str(corpus)], "text_key": "text", "val_fraction": 0.1, "max_tokens": 0, "document_mask": False}
    conf.write_text(json.dumps({"_target_": "own_corpus.Mine", **keys}))
    losses = []
    for replaced, force in (("state", "false"), ("shtate", "true"), ("shtate", "true")):
        module.write_text(OWN.replace("REPLACED", replaced))
        own = ("--config-dir", "own", *TINY, "data=mine", "paths.data=tokens", f"force={force}")
        done = gptx.run("gptx.run", *own)
        assert done.code == 0, done.err
        losses.append(json.loads((gptx.folder / "result.json").read_text())["val_loss"])
    assert losses[0] != losses[1] == losses[2]
    assert len([path for path in (gptx.cwd / "tokens").iterdir() if path.is_dir()]) == 2
