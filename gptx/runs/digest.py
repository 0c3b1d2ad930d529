"""SHA-256 of texts and files."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def digest(parts: Iterable[str | bytes]) -> str:
    """sha256 in hex of the parts and where each one ends."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()


def file_hash(path: Path, flush: bool = False) -> str:
    """sha256 in hex of a file. ``flush``: bring its bytes to the disk first (torch leaves the last in a buffer)."""
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
