"""The topics of Python's help(): 0.5 MB of English text that every installation of CPython contains."""

from collections.abc import Iterator
from pathlib import Path

from gptx.data.base import Corpus
from gptx.runs.hashing import digest

ID = "data.pydocs"
REVISION = 1


class Pydocs(Corpus):
    """The topics of Python's help, one document each."""

    name = "pydocs"

    def fingerprint(self) -> str:
        return digest(self._topics())

    def documents(self, cache: Path) -> Iterator[str]:
        return self._topics()

    def _topics(self) -> Iterator[str]:
        from pydoc_data.topics import topics

        for topic in sorted(topics):
            yield topics[topic]
