"""Long texts: read in chunks of any size they give the same text and the same ids as when they are read as a whole."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from helpers_data import TEXT, Listed, make_tokenizer, text_corpus, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptx.data import long_text
from gptx.data.long_text import LongText, pieces, read_text
from gptx.data.tokens import prepare
from gptx.errors import DataError
from gptx.tokenizer.base import Tokenizer
from gptx.tokenizer.bpe import BPE
from gptx.tokenizer.char import Char

pytestmark = pytest.mark.filterwarnings("error")

NAMES = ["byte", "char", "gpt2", "bpe"]
# characters of all classes of GPT-2's pattern, and those that Python and tiktoken may class differently
PARTS = [*" \n\t\r\x0b\x1c\x85\u00a0\u2028\u3000.,;!?'\"-_09٣²Ⅷ", *"azéßДא日本。、ー한กा\u0301🙂\u200d\ufeff\ud800"]
PARTS += ["'s", "'ll", "'re", "don't ", "l'", "  ", "\n\n", " \n", "a b", "state of the Union", "1234", "ᲀ", "\u1c89"]
ANY = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=40).map("".join)


def chunked(text: str, sizes: list[int]) -> LongText:
    """The text in chunks of these sizes, over and over."""

    def read() -> Iterator[str]:
        at, i = 0, 0
        while at < len(text):
            yield text[at : (at := at + sizes[i % len(sizes)])]
            i += 1

    return LongText(read)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    found = {name: make_tokenizer(name) for name in NAMES}
    for tokenizer in found.values():
        if tokenizer.needs_fit:
            tokenizer.fit([TEXT, "".join(PARTS)])
    return found


@pytest.mark.parametrize("name", NAMES)
@given(text=ANY, sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4))
@example(text="a  b", sizes=[2])  # two spaces, of which GPT-2 joins the last one with the word
@example(text="I'll we'", sizes=[3])
@example(text="日本。" * 9, sizes=[4])
@settings(max_examples=300)
def test_ids_do_not_depend_on_chunks(tokenizers: dict[str, Tokenizer], name: str, text: str, sizes: list[int]) -> None:
    tokenizer = tokenizers[name]
    if name == "char":
        tokenizer = Char()
        tokenizer.fit([text])
    parts = list(pieces(chunked(text, sizes), tokenizer.cut))
    assert "".join(parts) == text
    ids = np.concatenate([[], *map(tokenizer.encode, parts)])
    np.testing.assert_array_equal(ids, tokenizer.encode(text))


@pytest.mark.parametrize("name", NAMES)
@given(before=ANY, text=ANY, after=ANY)
@settings(max_examples=200)
def test_a_cut_is_right_in_every_text(
    tokenizers: dict[str, Tokenizer], name: str, before: str, text: str, after: str
) -> None:
    tokenizer = tokenizers[name]
    if name == "char":
        tokenizer = Char()
        tokenizer.fit([before + text + after])
    at = tokenizer.cut(text)
    assert 0 <= at <= len(text)
    two = [*tokenizer.encode(before + text[:at]), *tokenizer.encode(text[at:] + after)]
    assert at == 0 or two == tokenizer.encode(before + text + after).tolist()


@given(text=ANY, sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4))
@settings(max_examples=60)
def test_bpe_learns_the_same_from_chunks(text: str, sizes: list[int]) -> None:
    text = (text + TEXT[:300]) * 3
    whole, parts = BPE(vocab_size=290), BPE(vocab_size=290)
    whole.fit([text])
    with patch("gptx.tokenizer.bpe.BUFFER", 3):
        parts.fit(pieces(chunked(text, sizes), parts.cut))
    assert parts.ranks() == whole.ranks()


@given(
    text=ANY,
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    start=st.integers(0, 60),
    size=st.integers(0, 60),
)
def test_a_long_text_has_length_and_slices_of_a_string(text: str, sizes: list[int], start: int, size: int) -> None:
    long = chunked(text, sizes)
    assert (str(long), len(long), bool(long)) == (text, len(text), bool(text))
    assert str(long[start : start + size]) == text[start : start + size]
    assert str(long[:start]) + str(long[start:]) == text
    assert str(long[start:][:size]) == text[start:][:size]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [0, 500])
def test_token_files_do_not_depend_on_the_chunk(
    tokenizers: dict[str, Tokenizer], name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new() -> Tokenizer:
        return make_tokenizer(name) if tokenizers[name].needs_fit else tokenizers[name]

    text = ("naïve 日本。  don't\n\n" + TEXT) * 2
    (tmp_path / "one line.txt").write_text(text.replace("\n", " "))
    (tmp_path / "lines.txt").write_text(text.replace(" ", "\n", 300))
    for source in ("one line.txt", "lines.txt"):
        listed = Listed([(tmp_path / source).read_text()], max_tokens=limit)
        whole = prepare(listed, new(), tmp_path / "whole", quiet=True)
        for chunk in (7, 1000):
            monkeypatch.setattr(long_text, "CHUNK", chunk)
            corpus = text_corpus(str(tmp_path / source), max_tokens=limit)
            found = prepare(corpus, new(), tmp_path / f"{chunk}", quiet=True)
            assert found.tokenizer.to_json() == whole.tokenizer.to_json()
            np.testing.assert_array_equal(found.train, whole.train)
            np.testing.assert_array_equal(found.val, whole.val)
        monkeypatch.undo()


def test_at_most_two_chunks_are_held_where_the_text_can_be_cut(tokenizers: dict[str, Tokenizer]) -> None:
    for text in (TEXT * 20, "日本語の文章、" * 9999, "Łódź." * 9999):
        for name in NAMES:
            assert max(map(len, pieces(chunked(text, [64]), tokenizers[name].cut))) <= 128


MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", MARKED)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=40)
def test_a_byte_order_mark_is_no_text_and_names_the_encoding(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"marked-{encoding}.txt"
    path.write_bytes(MARKED[encoding] + text.encode(encoding))
    for chunk in (1, 3, 2**18):
        with patch.object(long_text, "CHUNK", chunk):
            assert "".join(read_text(path)) == text


def test_a_mark_changes_the_fingerprint_and_a_file_without_one_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_bytes(b"text")
    (tmp_path / "marked.txt").write_bytes(codecs.BOM_UTF8 + b"text")
    plain = text_corpus(str(tmp_path / "plain.txt"))
    assert plain.fingerprint() == "34d346c954d55b3e4254ba0d96e38dd27c3ef0c12a49421e8026558481080222"
    assert text_corpus(str(tmp_path / "marked.txt")).fingerprint() != plain.fingerprint()


@pytest.mark.parametrize("kind", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_wide_text_without_a_mark_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "wide.txt").write_bytes(("The state of the Union. " * 9).encode(kind))
    with pytest.raises(DataError, match=rf"wide.txt is full of NUL characters .*iconv -f {kind} -t UTF-8"):
        texts(text_corpus(str(tmp_path / "wide.txt")))


@pytest.mark.parametrize("data", [b"\0" * 999, b"text" * 99 + b"\0" * 500, b"\x01\0\0\x02\x03\0\0\0\0\0abc"])
def test_a_file_full_of_nuls_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "zeros.txt").write_bytes(data)
    with pytest.raises(DataError, match=r"zeros.txt is full of NUL characters .*not written completely"):
        texts(text_corpus(str(tmp_path / "zeros.txt")))


def test_a_few_nuls_are_text(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(b"text" * 99 + b"\0")
    assert texts(text_corpus(str(tmp_path / "one.txt"))) == ["text" * 99 + "\0"]


@pytest.mark.parametrize("chunk", [1, 4, 2**18])
@pytest.mark.parametrize("data, at", [(b"St\xfcck", 2), ("日本".encode() + b"\x80", 6), ("日本".encode()[:-1], 3)])
def test_bytes_that_are_not_utf8_are_located(
    data: bytes, at: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_text, "CHUNK", chunk)
    (tmp_path / "latin.txt").write_bytes(data)
    with pytest.raises(DataError, match=re.escape(f"latin.txt is not utf-8 text (byte {at}: ")):
        texts(text_corpus(str(tmp_path / "latin.txt")))
