"""The files that ``data.path`` names: files, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptx.errors import DataError


@dataclass(frozen=True)
class FileList:
    """Attributes:
    files: in the given order; those of one folder or pattern are sorted.
    hidden: how many hidden files and folders were left out of folders and matches.
    listed: whether a folder or a pattern was listed, so that the user did not name each file.
    """

    files: tuple[Path, ...]
    hidden: int = 0
    listed: bool = False

    def __str__(self) -> str:
        hidden = f", left out {_count(self.hidden, 'hidden file or folder', 'hidden files or folders')}"
        return f"read {_count(len(self.files), 'file', 'files')}" + hidden * bool(self.hidden)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def find_files(paths: Sequence[str]) -> FileList:
    """The files of several paths. What exists is a path, whatever characters its name has; else it is a pattern.

    Raises:
        DataError: there is no such file, or a folder cannot be read.
    """
    found = [_find(path) for path in paths]
    files = tuple(file for one in found for file in one.files)
    return FileList(files, sum(one.hidden for one in found), any(one.listed for one in found))


def _find(pattern: str) -> FileList:
    path = Path(pattern).expanduser()
    if path.is_file():
        return FileList((path,))
    if path.is_dir():
        found = _folder(path)
    else:
        matches = sorted(name for name in map(Path, glob.glob(str(path), recursive=True)) if name.is_file())
        files = tuple(name for name in matches if not name.name.startswith("."))
        found = FileList(files, len(matches) - len(files), listed=True)
    if not found.files:
        hidden = "; hidden ones are not read" if found.hidden else ""
        raise DataError(f"data.path={pattern}: no file matches, relative to {Path.cwd()}{hidden}")
    return found


def _folder(path: Path) -> FileList:
    def fail(error: OSError) -> None:
        raise DataError(f"data.path={path}: cannot read {error.filename}: {error.strerror}")

    files, hidden = [], 0
    for folder, folders, names in os.walk(path, onerror=fail):
        hidden += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return FileList(tuple(sorted(file for file in files if file.is_file())), hidden, listed=True)
