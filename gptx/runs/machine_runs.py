"""How many runs this user trains on this machine at the same time, which decides how fast each of them is.

Each run holds the lock of a file of its own in a folder of the user; the kernel frees it when the process ends.
"""

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def counted(run: Path) -> Iterator[None]:
    """Within the block, other runs count the run with this folder. Without effect if the lock cannot be written."""
    folder = _folder()
    if folder is None:
        yield
        return
    path = folder / _name(run)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(file)


def other_runs(run: Path) -> int | None:
    """How many runs of this user besides the one with this folder train on this machine; None if it is not known."""
    folder = _folder()
    if folder is None:
        return None
    return sum(_is_locked(path) for path in folder.iterdir() if path.name != _name(run))


def _name(run: Path) -> str:
    return hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]


def _folder() -> Path | None:
    """The folder of the locks, which belongs to the user alone; None if there cannot be one."""
    root = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(root) / f"gptx-runs-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    return None


def _is_locked(path: Path) -> bool:
    """Whether a living run holds a lock. A file that a killed run has left is removed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
