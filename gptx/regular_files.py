"""Open the files of a run folder. A run folder may come from somebody else: no symbolic link in it is followed.

The path of the run folder itself may lead through links, and so may that of ``outputs``.
"""

import errno
import os
import stat
from pathlib import Path
from typing import IO, Any

from gptx.errors import ConfigError


def open_regular(path: Path, mode: str = "r", **options: Any) -> IO[Any]:
    """Open a file as `open` does, unless it is a symbolic link, a named pipe or a device.

    Raises:
        ConfigError: it is one of these.
        OSError: as of `open`.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    return open(path, mode, opener=_opened, **options)


def _opened(path: str, flags: int) -> int:
    try:
        number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            raise _refused(Path(path)) from None
        raise
    if stat.S_ISREG(os.fstat(number).st_mode):
        return number
    os.close(number)
    raise _refused(Path(path))


def open_log(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Open a log file, see `open_regular`; its folder is created, and must not be a symbolic link."""
    refuse_link(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_regular(path, mode, **options)


def read_text(path: Path, largest: int) -> str:
    """The utf-8 text of a file.

    Raises:
        ValueError: it has more than ``largest`` bytes or is not utf-8.
        ConfigError, OSError: see `open_regular`.
    """
    with open_regular(path, "rb") as file:
        data: bytes = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it has more than {largest} bytes")
    return data.decode("utf-8")


def refuse_link(path: Path) -> None:
    """Reject a file or folder that is a symbolic link.

    Raises:
        ConfigError: names it.
    """
    if path.is_symlink():
        raise _refused(path)


def refuse_links(folder: Path) -> None:
    """Reject a folder that contains anything besides files and folders, at any depth: symbolic links, named pipes,
    devices. The folder itself may be a link, and may be missing.

    Raises:
        ConfigError: names the first one.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):  # another process may have removed it
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            refuse_links(Path(entry.path))
        elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
            raise _refused(Path(entry.path))


def _refused(path: Path) -> ConfigError:
    if not path.is_symlink():
        return ConfigError(f"{path} is not a regular file; remove it")
    return ConfigError(
        f"{path} is a symbolic link, which gptx does not follow: put the file itself there, or remove the link"
    )
