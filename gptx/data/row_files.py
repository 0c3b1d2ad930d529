"""Files whose rows are documents: JSON, CSV and parquet. One row at a time is in memory."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gptx.data.long_text import read_text
from gptx.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_TABLE_HINT = " (a file is read as plain text if its name ends in .txt)"
MAX_FIELD = 2**28  # characters of a CSV field; more are taken for a quote that is not closed


class RowReader:
    """Reads the texts in the rows of files.

    Args:
        key: the column.

    Attributes:
        rows, without_text: the rows read so far, and those of them that were skipped because their text is null.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.rows = self.without_text = 0

    def read(self, path: Path) -> Iterator[str]:
        """Yield the text of each row of a file; see `texts`."""
        name, rows = READERS[path.suffix.lower()]
        return self.texts(rows(path, self.key), str(path), _TABLE_HINT if name in ("csv", "tsv") else "")

    def texts(self, rows: Iterable[Any], source: str, hint: str = "") -> Iterator[str]:
        """Yield the text of each row, in order, without rows whose text is null.

        Args:
            source: names the rows in messages; ``hint``: is added where they have no such column.

        Raises:
            DataError: a row has no such column, or no text in it; or all texts are null.
        """
        found = False
        for number, row in enumerate(rows, start=1):
            self.rows += 1
            text = self._text(row, f"row {number:,} of {source}", hint)
            if text is None:
                self.without_text += 1
            else:
                found = True
                yield text
        if self.rows and not found:
            raise DataError(f"data.text_key={self.key}: all rows of {source} have null there, expected a text")

    def _text(self, row: Any, where: str, hint: str) -> str | None:
        if not isinstance(row, dict):
            raise DataError(f"{where} is {_type(row)}, expected an object with the key {self.key}")
        if self.key not in row:
            names = ", ".join(map(str, row)) or "none"
            raise DataError(f"data.text_key={self.key}: no such column in {where}; it has: {names}{hint}")
        text = row[self.key]
        if text is None or isinstance(text, str):
            return text
        raise DataError(f"data.text_key={self.key}: {where} has {_type(text)} there, expected a text")

    def remarks(self) -> list[str]:
        """A line about the rows that were skipped, if there are any."""
        if not self.without_text:
            return []
        return [f"data.text_key={self.key}: {self.without_text:,} of {self.rows:,} rows skipped: their text is null"]


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number", str: "a text"}
    return "null" if value is None else names.get(type(value), f"a value of type {type(value).__name__}")


def _json_lines(path: Path, _: str) -> Iterator[Any]:
    for number, line in enumerate(_lines(read_text(path)), start=1):
        if not line.isspace():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise DataError(f"line {number:,} of {path} is not JSON: {exc}") from exc


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """The lines of a text with their line feeds. JSON may hold other characters that end a line."""
    held: list[str] = []
    for chunk in chunks:
        *lines, last = chunk.split("\n")
        for line in lines:
            yield "".join([*held, line, "\n"])
            held = []
        held.append(last)
    if rest := "".join(held):
        yield rest


def _json_values(path: Path, _: str) -> Iterator[Any]:
    """The elements of a JSON array, or a sequence of JSON values."""
    decoder, chunks = json.JSONDecoder(), read_text(path)
    text, at, number, array, closed = next(chunks, ""), 0, 1, None, False
    while text:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches an empty text, too
        if at == len(text):
            text, at = next(chunks, ""), 0
        elif array is None:
            array = text[at] == "["
            at += array
        elif array and text[at] in ",]":
            closed = text[at] == "]"
            at += 1
        else:
            try:
                value, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as exc:
                more = "".join(_take(chunks, len(text))) if _incomplete(exc, text) else ""
                if not more:
                    raise DataError(f"value {number:,} of {path} is not JSON: {exc}") from exc
                text, at = text[at:] + more, 0
            else:
                yield value
                number += 1
    if array and not closed:
        raise DataError(f"{path} ends after value {number - 1:,} without the ] of its array: it is incomplete")


def _incomplete(error: Exception, text: str) -> bool:
    """Whether a value may continue after the end of the text."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - 16


def _take(chunks: Iterator[str], count: int) -> Iterator[str]:
    """Chunks with at least ``count`` characters together: a value is parsed again when the text is twice as long."""
    while count > 0 and (chunk := next(chunks, "")):
        count -= len(chunk)
        yield chunk


def _table(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    rows = csv.reader(_lines(read_text(path)), delimiter=delimiter, strict=True)
    try:
        names = next(rows, [])
        for row in rows:
            if row:
                yield dict(zip(names, [*row, *[None] * (len(names) - len(row))], strict=False))
    except csv.Error as exc:
        raise DataError(f"cannot read {path} as a table: {exc} (line {rows.line_num:,})") from exc


def _csv(path: Path, _: str) -> Iterator[dict[str, Any]]:
    return _table(path, ",")


def _tsv(path: Path, _: str) -> Iterator[dict[str, Any]]:
    return _table(path, "\t")


def _parquet(path: Path, key: str) -> Iterator[dict[str, Any]]:
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:  # type: ignore[no-untyped-call]
            names = file.schema_arrow.names
            for batch in file.iter_batches(batch_size=64, columns=[key] if key in names else names):
                yield from batch.to_pylist()
    except (OSError, ArrowException) as exc:
        raise DataError(f"cannot read {path}: {' '.join(str(exc).split())}") from exc


# suffix -> (name that is part of the text's fingerprint, reader); every other file is read as plain text
READERS: dict[str, tuple[str, Callable[[Path, str], Iterator[Any]]]] = {
    ".jsonl": ("json", _json_lines),
    ".json": ("json", _json_values),
    ".parquet": ("parquet", _parquet),
    ".csv": ("csv", _csv),
    ".tsv": ("tsv", _tsv),
}
