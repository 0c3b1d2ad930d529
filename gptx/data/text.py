"""Local files. Each text file is a document; each row of a .jsonl, .json, .csv, .tsv or .parquet file is one."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from gptx.data.base import Corpus
from gptx.data.file_list import FileList, find_files
from gptx.data.long_text import LongText, mark_of, read_text
from gptx.data.row_files import READERS, RowReader
from gptx.errors import DataError
from gptx.runs.hashing import digest, file_hash

ID = "data.text"
REVISION = 1


class Text(Corpus):
    """The user's files: each text file is a document, and so is each row of a table.

    Args:
        path: files, folders and patterns.
        text_key: the column or key that holds the text in files with rows.
        val_fraction, max_tokens: see `Corpus`.
    """

    name = "text"

    def __init__(self, *, path: Sequence[str], text_key: str, val_fraction: float, max_tokens: int) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.path, self.rows = path, RowReader(text_key)

    def fingerprint(self) -> str:
        parts: list[str] = []
        for path in self.files().files:
            try:
                parts += [hash_of(path), self._how(path)]
            except OSError as exc:  # such as a file that was removed after its folder was listed
                raise DataError(f"cannot read {path}: {exc.strerror}") from exc
        return digest(parts)

    def _how(self, path: Path) -> str:
        """How a file becomes text; without a byte-order mark as in versions of gptx that did not know such marks."""
        reader = READERS.get(path.suffix.lower())
        encoding, mark = mark_of(path)
        how = f"{reader[0]} {self.rows.key}" if reader else "text"
        return f"{how} {encoding} mark" if mark and (reader is None or reader[0] != "parquet") else how

    def documents(self, cache: Path) -> Iterator[str | LongText]:
        self.rows = RowReader(self.rows.key)
        for path in self.files().files:
            if path.suffix.lower() in READERS:
                yield from self.rows.read(path)
            else:
                yield LongText(partial(read_text, path))

    def remarks(self) -> list[str]:
        files = self.files()
        return [*([f"data.path: {files}"] if files.listed else []), *self.rows.remarks()]

    def files(self) -> FileList:
        """The files that ``path`` names.

        Raises:
            DataError: there are none.
        """
        if not any(self.path):
            raise DataError("data=text needs data.path=FILE, a folder, or a pattern such as data.path='books/*.txt'")
        return find_files(self.path)


def hash_of(path: Path) -> str:
    """SHA-256 of a file, computed once in a process as long as the file does not change.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    return _hash_of_version(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_of_version(path: Path, *version: int) -> str:
    """``version``: inode, size and time of the last change."""
    return file_hash(path)
