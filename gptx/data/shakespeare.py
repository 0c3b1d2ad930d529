"""Tiny Shakespeare, the 1.1 MB that char-rnn and nanoGPT train on. It is downloaded once; its hash is fixed."""

import hashlib
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from gptx.data.base import Corpus
from gptx.errors import DataError

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


ID = "data.shakespeare"
REVISION = 1


class Shakespeare(Corpus):
    """Tiny Shakespeare, one document.

    Args:
        path: a file with the text; "": it is downloaded once.
        val_fraction, max_tokens: see `Corpus`.
    """

    name = "shakespeare"

    def __init__(self, *, path: str, val_fraction: float, max_tokens: int) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.path = path

    def fingerprint(self) -> str:
        if self.path:  # check the file even if its tokens are cached and it is not read
            self._local_file()
        return SHA256

    def documents(self, cache: Path) -> Iterator[str]:
        yield (self._local_file() if self.path else _download(cache)).decode("utf-8")

    def _local_file(self) -> bytes:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise DataError(f"data.path={self.path}: no such file, relative to {Path.cwd()}")
        return _checked(path.read_bytes(), f"data.path={self.path}")


def _checked(data: bytes, source: str) -> bytes:
    given = hashlib.sha256(data).hexdigest()
    if given != SHA256:
        raise DataError(
            f"{source} is not Tiny Shakespeare: sha256 {given}, expected {SHA256}; for other text use data=text"
        )
    return data


def _download(cache: Path) -> bytes:
    """The text: from ``cache`` if an intact file exists there, else from the network into ``cache``, atomically."""
    cached = cache / "tinyshakespeare.txt"
    if cached.is_file() and hashlib.sha256(data := cached.read_bytes()).hexdigest() == SHA256:
        return data
    try:
        with urllib.request.urlopen(URL, timeout=60) as response:
            data = bytes(response.read())
    except OSError as exc:
        raise DataError(
            f"cannot download {URL} ({exc}): download it on a machine with a network and use data.path=FILE"
        ) from exc
    _checked(data, URL)
    cache.mkdir(parents=True, exist_ok=True)
    part = cached.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, cached)
    finally:
        part.unlink(missing_ok=True)
    return data
