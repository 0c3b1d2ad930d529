"""Token files: the split, the limit, the cache, and the files after an error."""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import TEXT, Listed, make_tokenizer, no_partial_files
from hypothesis import given
from hypothesis import strategies as st

from gptx.cli import configure_logging
from gptx.data.split import split_documents
from gptx.data.tokens import prepare
from gptx.errors import DataError
from gptx.tokenizer.base import EOT_TEXT
from gptx.tokenizer.bpe import BPE
from gptx.tokenizer.byte import Byte
from gptx.tokenizer.char import Char

pytestmark = pytest.mark.filterwarnings("error")


def test_a_single_document_is_split_as_in_nanogpt(tmp_path: Path) -> None:
    tokens = prepare(Listed([TEXT]), Byte(), tmp_path, quiet=True)
    cut = int(len(TEXT) * 0.9)
    assert tokens.tokenizer.decode(tokens.train) == TEXT[:cut]
    assert tokens.tokenizer.decode(tokens.val) == TEXT[cut:]


def test_every_tenth_document_is_for_validation(tmp_path: Path) -> None:
    documents = [f"document {i}" for i in range(25)]
    tokens = prepare(Listed(documents), Byte(), tmp_path, quiet=True)
    assert tokens.tokenizer.decode(tokens.val).split(EOT_TEXT) == ["document 9", "document 19"]
    train = tokens.tokenizer.decode(tokens.train).split(EOT_TEXT)
    assert train == [text for i, text in enumerate(documents) if i % 10 != 9]


@given(
    documents=st.lists(st.text(min_size=1, max_size=20), max_size=40),
    fraction=st.sampled_from([0.01, 0.1, 0.3, 0.5]),
)
def test_split_yields_each_character_once(documents: list[str], fraction: float) -> None:
    pieces = list(split_documents(iter(documents), fraction))
    assert "".join(text for _, text in pieces) == "".join(documents)
    assert all(text for _, text in pieces)


def test_char_is_fitted_on_both_splits(tmp_path: Path) -> None:
    tokens = prepare(Listed(["a" * 90 + "z" * 10]), Char(), tmp_path, quiet=True)
    assert tokens.tokenizer.decode(tokens.val) == "z" * 10


def test_bpe_is_fitted_on_training_documents_only(tmp_path: Path) -> None:
    tokens = prepare(Listed(["a" * 90 + "z" * 10]), BPE(vocab_size=270), tmp_path, quiet=True)
    assert len(tokens.train) < 10 == len(tokens.val)


@pytest.mark.parametrize("name", ["byte", "char", "bpe"])
def test_max_tokens_limits_both_splits(name: str, tmp_path: Path) -> None:
    read: list[int] = []

    class Endless(Listed):
        def documents(self, cache: Path) -> Iterator[str]:
            for i in range(10_000):
                read.append(i)
                yield f"page {i % 77} of a stream without end. "

    corpus = Endless(["endless"], max_tokens=1000)
    tokens = prepare(corpus, make_tokenizer(name), tmp_path, quiet=True)
    assert (len(tokens.train), len(tokens.val)) == (900, 100)
    assert max(read) < 1000  # it stopped reading


class Wide(Byte):
    n_vocab = 70_000

    def encode(self, text: str) -> np.ndarray:
        return super().encode(text).astype(np.int64) + 69_000


def test_a_large_vocabulary_uses_uint32(tmp_path: Path) -> None:
    tokens = prepare(Listed([TEXT]), Wide(), tmp_path, quiet=True)
    assert tokens.train.dtype == np.uint32
    assert tokens.train.min() >= 69_000
    assert prepare(Listed([TEXT]), make_tokenizer("gpt2"), tmp_path, quiet=True).train.dtype == np.uint16


def test_token_folder_name_depends_on_everything_that_changes_the_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = [
        (Listed([TEXT]), Byte()),
        (Listed([TEXT + "."]), Byte()),
        (Listed([TEXT], val_fraction=0.2), Byte()),
        (Listed([TEXT], max_tokens=500), Byte()),
        (Listed([TEXT]), BPE(vocab_size=260)),
        (Listed([TEXT]), BPE(vocab_size=270)),
    ]
    first = [prepare(*variant, tmp_path, quiet=True) for variant in variants]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == len(variants)
    monkeypatch.setattr("gptx.data.tokens._create", lambda *args: pytest.fail("created again"))
    for variant, tokens in zip(variants, first, strict=True):
        again = prepare(*variant, tmp_path, quiet=True)
        assert again.meta == tokens.meta
        np.testing.assert_array_equal(again.train, tokens.train)


def test_meta_describes_the_tokens(tmp_path: Path) -> None:
    corpus = Listed([TEXT])
    meta = prepare(corpus, Byte(), tmp_path, quiet=True).meta
    assert meta.corpus_hash == corpus.fingerprint()
    assert (meta.corpus, meta.tokenizer, meta.dtype, meta.format) == (
        "listed",
        "byte",
        "uint16",
        1,
    )
    assert len(meta.tokenizer_hash) == 64
    assert meta.train_tokens + meta.val_tokens == len(TEXT)


def damage_size(home: Path) -> None:
    with open(home / "train.bin", "ab") as file:
        file.write(b"\0\0")


def damage_meta(home: Path) -> None:
    (home / "meta.json").write_text('{"corpus": ')


def damage_missing(home: Path) -> None:
    (home / "val.bin").unlink()


def damage_tokenizer(home: Path) -> None:
    (home / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize("damage", [damage_size, damage_meta, damage_missing, damage_tokenizer])
def test_damaged_token_files_are_created_again_with_a_warning(
    damage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(Listed([TEXT]), Byte(), tmp_path, quiet=True)
    expected = np.array(first.train), np.array(first.val)
    damage(next(path for path in tmp_path.iterdir() if path.is_dir()))
    configure_logging()
    again = prepare(Listed([TEXT]), Byte(), tmp_path)
    np.testing.assert_array_equal(again.train, expected[0])
    np.testing.assert_array_equal(again.val, expected[1])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.match(r"gptx: the token files in .* are damaged", lines[0])
    assert lines[1] == "tokenising listed with byte"
    prepare(Listed([TEXT]), Byte(), tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("documents", [[], [""], ["x"]])
def test_a_corpus_without_train_or_val_tokens_is_rejected(documents: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus listed gives . train and . val tokens"):
        prepare(Listed(documents), Byte(), tmp_path, quiet=True)
    assert no_partial_files(tmp_path) and not any(path.is_dir() for path in tmp_path.iterdir())


def test_an_error_while_tokenising_leaves_no_files(tmp_path: Path) -> None:
    class Broken(Listed):
        def documents(self, cache: Path) -> Iterator[str]:
            yield from [TEXT] * 20
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Broken([TEXT]), Byte(), tmp_path, quiet=True)
    assert no_partial_files(tmp_path) and not any(path.is_dir() for path in tmp_path.iterdir())


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, keys in {"": "paths.data", ".data": "paths.outputs or paths.data"}.items():
        with pytest.raises(DataError, match=rf"cannot write token files to [^;]*; change {keys}$"):
            prepare(Listed([TEXT]), Byte(), tmp_path / "file" / name, quiet=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_on_a_terminal_is_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    prepare(Listed([TEXT] * 20, max_tokens=5000), Byte(), tmp_path)
    shown = terminal.getvalue()
    assert "tokenising listed with byte" in shown
    assert "5000/5000" in shown
    assert shown.endswith("\x1b[2K")  # its last line is erased


def test_the_name_of_a_corpus_is_no_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Listed, "name", "[/b]{task.x}[red]")
    prepare(Listed([TEXT] * 20, max_tokens=5000), Byte(), tmp_path)
    assert "tokenising [/b]{task.x}[red]" in terminal.getvalue()
