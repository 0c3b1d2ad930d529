"""SHA-256 of texts and files."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def digest(items: Iterable[str | bytes]) -> str:
    """SHA-256 in hex of a sequence of texts; it also depends on the boundaries between them."""
    total = hashlib.sha256()
    for item in items:
        data = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()


def file_hash(path: Path, flush: bool = False) -> str:
    """SHA-256 in hex of a file.

    Args:
        flush: flush the file to the disk first; torch leaves its last bytes in a buffer.
    """
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
