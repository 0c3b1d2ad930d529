"""Token ids that were made outside gptx."""

from collections.abc import Iterator

import numpy as np

from gptx.data.long_text import CHUNK
from gptx.errors import DataError


class IdArray:
    """A document that consists of token ids instead of text. It is false if it is empty.

    Args:
        ids: (n,) integers; it may be a memory map.
        source: names the ids in messages.
    """

    def __init__(self, ids: np.ndarray, source: str) -> None:
        self.ids, self.source = ids, source

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "IdArray":
        return IdArray(self.ids[part], self.source)

    def chunks(self, n_vocab: int) -> Iterator[np.ndarray]:
        """Yield the ids in parts.

        Raises:
            DataError: an id is not in a vocabulary of ``n_vocab`` ids.
        """
        for start in range(0, len(self.ids), CHUNK):
            chunk = self.ids[start : start + CHUNK]
            if (wrong := (chunk < 0) | (chunk >= n_vocab)).any():
                at = int(np.argmax(wrong))
                raise DataError(
                    f"{self.source} has the id {chunk[at]} at position {start + at:,}; the tokenizer has the ids 0 to "
                    f"{n_vocab - 1:,}: use the tokenizer that made the ids, or tokenizer=ids tokenizer.n_vocab=N"
                )
            yield chunk
