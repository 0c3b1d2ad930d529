"""Files as people have them: hidden folders, brackets in names, null rows, tables, and files that disappear."""

import codecs
import json
import re
from pathlib import Path

import pytest
from command import Gptx, one_line
from helpers_data import TEXT, make, text_corpus, texts
from hypothesis import given
from hypothesis import strategies as st

from gptx.data import long_text
from gptx.data.text import Text
from gptx.data.tokens import prepare
from gptx.errors import DataError
from gptx.tokenizer.byte import Byte

pytestmark = pytest.mark.filterwarnings("error")


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_hidden_files_and_folders_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "notes"
    for name in ("a.txt", "b/c.txt", ".ipynb_checkpoints/a.txt", ".git/objects/x", "b/.b.swp"):
        write(folder / name, TEXT)
    corpus = text_corpus(str(folder))
    assert texts(corpus) == [TEXT] * 2
    prepare(corpus, Byte(), tmp_path / "tokens")
    err = capsys.readouterr().err
    assert err.splitlines() == [
        "tokenising text with byte",
        "data.path: read 2 files, left out 3 hidden files or folders",
    ]
    with pytest.raises(DataError, match=r"no file matches.*; hidden ones are not read"):
        text_corpus(str(write(tmp_path / "only/.hidden", "x").parent)).files()


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    write(tmp_path / ".hidden/a.txt", "text")
    assert texts(text_corpus(str(tmp_path / ".hidden"))) == ["text"]


@pytest.mark.parametrize("folder", ["[set] 1", "what?", "a*b", "{x,y}", "[!a]"])
@pytest.mark.parametrize("name", ["a.jsonl", "[b].txt", "c*.parquet", "d?.json", "[e].csv"])
def test_an_existing_path_is_no_pattern(folder: str, name: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / folder / name
    contents = {".jsonl": '{"text": "one"}\n', ".txt": "one", ".json": '[{"text": "one"}]', ".csv": "text\none\n"}
    write(path, contents.get(path.suffix, ""))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["one"]}), path)  # type: ignore[no-untyped-call]
    for given_path in (path, path.parent):
        assert texts(text_corpus(str(given_path))) == ["one"]


def test_a_path_with_brackets_through_the_command(gptx: Gptx) -> None:
    write(gptx.cwd / "[set] 1/a.jsonl", json.dumps({"text": TEXT}))
    done = gptx("data=text", "data.path='[set] 1/a.jsonl'", "paths.data=tokens")
    assert done.code == 0, done.err


def test_rows_without_text_are_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": None}, {"text": TEXT}, {"text": TEXT, "more": 1}, {"text": None}]
    for name in ("a.jsonl", "a.json"):
        text = "\n".join(map(json.dumps, rows)) if name == "a.jsonl" else json.dumps(rows)
        corpus = text_corpus(str(write(tmp_path / name, text)))
        assert texts(corpus) == [TEXT, TEXT]
        prepare(corpus, Byte(), tmp_path / "tokens")
        line = capsys.readouterr().err.splitlines()[-1]
        assert line == "data.text_key=text: 2 of 4 rows skipped: their text is null"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", '{"text": "a"}\n{"text": 12}\n', "row 2 of .*a.jsonl has a number there, expected a text"),
        ("a.jsonl", '{"text": "a"}\n\n["b"]\n', "row 2 of .*a.jsonl is a list, expected an object with the key text"),
        ("a.jsonl", '{"text": "a"}\n{"body": "b", "id": 1}', "no such column in row 2 of .*a.jsonl; it has: body, id$"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"\n', "line 3 of .*a.jsonl is not JSON: Expecting ',' delimiter"),
        ("a.jsonl", '{"text": null}\n{"text": null}', "all rows of .*a.jsonl have null there, expected a text"),
        ("a.json", '[{"text": "a"}, {"text": "b"}', "a.json ends after value 2 without the ] of its array"),
        ("a.json", '[{"text": "a"}, {"text": "b" "c"}]', "value 2 of .*a.json is not JSON: Expecting ',' delimiter"),
        ("a.csv", ",body\n0,x\n", r"no such column in row 1 of .*a.csv; it has: , body \(a file is read as plain text"),
        ("a.csv", 'text\n"not closed', r"cannot read .*a.csv as a table: unexpected end of data"),
        ("a.jsonl", "\0" * 99, "a.jsonl is full of NUL characters"),
    ],
)
def test_a_row_that_is_no_text_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as refused:
        texts(text_corpus(str(write(tmp_path / name, content))))
    assert "\n" not in str(refused.value)


LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(LETTERS, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    rows=st.lists(st.tuples(st.text(LETTERS, max_size=20), VALUES), max_size=6),
    chunk=st.integers(1, 9) | st.just(2**18),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_json_in_chunks_is_json(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, object]],
    chunk: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    found = [{"other": value, "text": text} for text, value in rows]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "CHUNK", chunk)
        for name, text in (
            ("rows.json", json.dumps(found, ensure_ascii=ascii_only, indent=indent)),
            ("values.json", lines),
            ("lines.jsonl", codecs.BOM_UTF8.decode() + lines),
        ):
            path = write(folder / name, text)
            assert texts(text_corpus(str(path))) == [text for text, _ in rows]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marked_rows_of_all_kinds_are_decoded(encoding: str, tmp_path: Path) -> None:
    for name, content in {
        "a.jsonl": '{"text": "Stück"}\n{"text": "zwei"}\n',
        "a.json": '[{"text": "Stück"}, {"text": "zwei"}]',
        "a.csv": "text,id\nStück,1\nzwei,2\n",
        "a.tsv": "text\tid\nStück\t1\nzwei\t2\n",
    }.items():
        path = tmp_path / name
        path.write_bytes(content.encode(encoding))
        assert texts(text_corpus(str(path))) == ["Stück", "zwei"]


def test_a_table_is_read_by_its_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,text\n0,"one, ""two""\nand three"\n1,four\n2\n3,\n')
    corpus = text_corpus(str(path))
    assert texts(corpus) == ['one, "two"\nand three', "four", ""]
    assert corpus.rows.without_text == 1  # the row 2 has no second cell
    other = text_corpus(str(path), text_key="id")
    assert texts(other) == ["0", "1", "2", "3"]
    assert other.fingerprint() != corpus.fingerprint()
    plain = write(tmp_path / "a.txt", path.read_bytes())
    assert text_corpus(str(plain)).fingerprint() != corpus.fingerprint()


def test_a_column_whose_type_changes_late_does_not_matter(tmp_path: Path) -> None:
    rows = ({"text": "x" * 600, "other": None if i < 5500 else "s"} for i in range(6000))
    path = write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert len(texts(text_corpus(str(path)))) == 6000


def test_an_error_of_datasets_names_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise TypeError("Couldn't cast array of type string to null")

    monkeypatch.setattr("datasets.load.load_dataset", fail)
    write(tmp_path / "a.jsonl", "{}")
    corpus = make("data", "openwebtext", hub=str(tmp_path), subset="")
    with pytest.raises(DataError, match=rf"cast array.*; data=text data.path={re.escape(str(tmp_path))} reads it"):
        texts(corpus)


def test_null_rows_of_a_dataset_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "set/train.jsonl", '{"text": "a"}\n{"text": null}\n')
    corpus = make("data", "openwebtext", hub=str(tmp_path / "set"), subset="")
    assert texts(corpus) == ["a"]
    assert corpus.remarks() == ["data.text_key=text: 1 of 2 rows skipped: their text is null"]


def test_a_file_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt"):
        write(tmp_path / "folder" / name, name + TEXT)
    corpus = text_corpus(str(tmp_path / "folder"))
    listed = corpus.files()
    monkeypatch.setattr(Text, "files", lambda self: listed)
    documents = corpus.documents(tmp_path)
    assert str(next(documents)).startswith("a.txt")
    (tmp_path / "folder/b.txt").unlink()
    for read in (lambda: str(next(documents)), corpus.fingerprint):
        with pytest.raises(DataError, match=r"cannot read .*b.txt: No such file or directory"):
            read()


def test_a_text_that_changes_while_it_is_tokenised_is_refused(tmp_path: Path) -> None:
    class Growing(Text):
        def remarks(self) -> list[str]:
            raise AssertionError("the tokens were written")

        def documents(self, cache: Path):  # type: ignore[no-untyped-def]
            yield from super().documents(cache)
            write(tmp_path / "a.txt", TEXT + "more")

    write(tmp_path / "a.txt", TEXT)
    corpus = Growing(path=[str(tmp_path / "a.txt")], text_key="text", val_fraction=0.1, max_tokens=0)
    with pytest.raises(DataError, match="the text of corpus text changed while it was tokenised; start again"):
        prepare(corpus, Byte(), tmp_path / "tokens")
    assert not [path for path in (tmp_path / "tokens").iterdir() if path.is_dir()]


def test_mistakes_in_files_are_one_line_of_the_command(gptx: Gptx) -> None:
    def run(path: str, *more: str) -> None:
        done = gptx("data=text", f"data.path={path}", "paths.data=tokens")
        begun, error = done.err.splitlines()
        assert (done.code, begun) == (2, "tokenising text with byte")
        assert error.startswith("gptx: ") and all(part in error for part in more)

    write(gptx.cwd / "wide.txt", TEXT.encode("utf-16-le"))
    run("wide.txt", "wide.txt is full of NUL characters", "iconv -f UTF-16LE -t UTF-8")
    write(gptx.cwd / "table.csv", "id,body\n0,x\n")
    run("table.csv", "data.text_key=text: no such column in row 1 of", "it has: id, body")
    write(gptx.cwd / "empty.txt", "")
    run("empty.txt", "its text is empty")


@pytest.mark.parametrize("size", ["1e15", "4294967297", "256", "-1"])
def test_a_vocabulary_size_out_of_range_is_one_line(size: str, gptx: Gptx) -> None:
    one_line(gptx("tokenizer=bpe", f"tokenizer.vocab_size={size}"), "tokenizer.vocab_size=")
