"""Local files. Each text file is a document; each row of a .jsonl, .json or .parquet file is one."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from gptx.data.base import Corpus
from gptx.data.hub import stream
from gptx.errors import DataError
from gptx.runs.hashing import digest, file_hash

# suffix -> name of the reader in ``datasets``; every other file is read as utf-8 text
READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


ID = "data.text"
REVISION = 1


class Text(Corpus):
    name = "text"

    def __init__(self, *, path: Sequence[str], text_key: str, val_fraction: float, max_tokens: int) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.path, self.text_key = path, text_key

    def fingerprint(self) -> str:
        parts: list[str] = []
        for path in self.files():
            reader = READERS.get(path.suffix.lower())
            parts += [file_hash(path), f"{reader} {self.text_key}" if reader else "text"]
        return digest(parts)

    def documents(self, cache: Path) -> Iterator[str]:
        for path in self.files():
            reader = READERS.get(path.suffix.lower())
            if reader:
                yield from stream(reader, text_key=self.text_key, split="train", data_files=[str(path)])
            else:
                yield _read(path)

    def files(self) -> list[Path]:
        """The files that ``path`` names, in the given order; the matches of one pattern are sorted.

        Raises:
            DataError: there are none.
        """
        if not any(self.path):
            raise DataError("data=text needs data.path=FILE, a folder, or a pattern such as data.path='books/*.txt'")
        return [path for pattern in self.path for path in _match(pattern)]


def _match(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    names = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    found = sorted(name for name in names if name.is_file() and not name.name.startswith("."))
    if not found:
        raise DataError(f"data.path={pattern}: no file matches, relative to {Path.cwd()}")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as exc:
        raise DataError(
            f"{path} is not utf-8 text (byte {exc.start}: {exc.reason}); convert it, e.g. with iconv"
        ) from exc
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc
