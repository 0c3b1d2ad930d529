"""Split the validation text into units, and assign each unit to one of two fixed halves.

The selection half decides (best weights, early stopping, learning rates, halving, searches); the report half has the
figures that are compared. Both are a function of the evaluated text alone: not of seeds, batch sizes or processes, nor
of how a tokenizer with an end-of-text token cuts the text, if all of the validation split is evaluated.

A half consists of whole documents. In the order of the text, each document goes to the half that has fewer bytes so
far. A document with more than 1 / `BLOCKS` of all bytes is first cut into equal blocks, so the halves differ by at most
that fraction. Without an end-of-text token, the text is one document.

Letters: U units.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptx.data.batches import Ids

BLOCKS = 8  # a document with more than this fraction of the bytes is cut into blocks for the halves
UNITS = 256  # a block with more than this fraction of the bytes is cut into units
MOST_DOCUMENTS = 2**16  # of more documents, neighbours are taken together
_CHUNK = 2**20  # tokens that are read at once

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ValidationUnits:
    """The units of the evaluated text, in its order: parts of documents. All arrays are (U,).

    Attributes:
        starts: the position in the validation split at which a unit starts.
        document: the number of its document in the validation split.
        offset: the evaluated bytes of the document before the unit. With ``document`` it names the unit.
        select, report: whether the unit belongs to the selection half, and to the report half. If the text is too
            short for halves, all units belong to both.
        tokens, size: the predicted tokens of the unit, and their bytes.
    """

    starts: Ids
    document: Ids
    offset: Ids
    select: Flags
    report: Flags
    tokens: Ids
    size: Ids

    def of(self, positions: Ids) -> Ids:
        """The unit of each position of the validation split."""
        return np.maximum(np.searchsorted(self.starts, positions, "right") - 1, 0)


def split_validation(
    tokens: np.ndarray, starts: Ids, context: int, token_bytes: np.ndarray, eot: int | None
) -> ValidationUnits:
    """The units of the rows that are evaluated.

    Args:
        tokens: the validation split, a memory-mapped array.
        starts: where the rows start, see `gptx.data.batches.validation_starts`.
        token_bytes: (V,) the bytes that each token counts for.
        eot: the token that ends a document; None: the tokenizer has none.
    """
    text = _EvaluatedText(tokens, starts, context, token_bytes, eot)
    size = text.document_bytes()
    total = max(int(size.sum()), 1)
    blocks = np.maximum(-(-BLOCKS * size // total), 1)
    pieces = np.maximum(-(-UNITS * size // (total * blocks)), 1)  # of a block
    in_report = _report_blocks(size / blocks, blocks)
    at, document, offset, piece = text.units(size, blocks * pieces)
    report = in_report[(np.cumsum(blocks) - blocks)[document] + piece // pieces[document]]
    count, target_bytes = text.targets(at)
    has = count > 0
    select, report = ~report[has], report[has]
    if not has_halves(len(starts)) or not select.any() or not report.any():
        select = report = np.ones_like(report)
    document = document * text.documents_together
    return ValidationUnits(at[has], document[has], offset[has], select, report, count[has], target_bytes[has])


def has_halves(rows: int) -> bool:
    """Whether this many rows are enough for two halves; else all of the text is used for both purposes."""
    return rows > 1


def _report_blocks(sizes: npt.NDArray[np.float64], blocks: Ids) -> Flags:
    """Whether each block belongs to the report half. ``sizes``: of the blocks of each document."""
    select, report, chosen = 0.0, 0.0, []
    for size in np.repeat(sizes, blocks).tolist():
        chosen.append(report < select)
        if report < select:
            report += size
        else:
            select += size
    return np.array(chosen)


class _EvaluatedText:
    """The tokens of the evaluated rows, which are read in chunks. A document is named by its number.

    Attributes:
        documents_together: how many documents count as one.
    """

    def __init__(self, tokens: np.ndarray, starts: Ids, context: int, token_bytes: np.ndarray, eot: int | None) -> None:
        self.tokens, self.starts, self.context = tokens, starts, context
        self.bytes = token_bytes.astype(np.int64)
        self.ends = np.zeros(0, np.int64) if eot is None else _positions(tokens, eot)
        self.documents_together = -(-(len(self.ends) + 1) // MOST_DOCUMENTS)

    def document_bytes(self) -> Ids:
        """The evaluated bytes of each document of the validation split."""
        found = np.zeros(len(self.ends) // self.documents_together + 1, np.int64)
        for _, document, size in self._chunks():
            found += np.bincount(document, size, len(found)).astype(np.int64)
        return found

    def units(self, size: Ids, pieces: Ids) -> tuple[Ids, Ids, Ids, Ids]:
        """Start, document, offset and number within the document of each unit.

        Args:
            size: the bytes of each document.
            pieces: the number of units into which each document is cut, by bytes.
        """
        before, first = np.cumsum(size) - size, np.cumsum(pieces) - pieces
        done, last, found = 0, -1, []
        for at, document, sizes in self._chunks():
            offset = done + np.cumsum(sizes) - sizes - before[document]
            piece = np.minimum(offset * pieces[document] // np.maximum(size[document], 1), pieces[document] - 1)
            unit = first[document] + piece
            new = np.diff(unit, prepend=last) > 0
            found.append(np.stack([at, document, offset, piece])[:, new])
            done, last = done + int(sizes.sum()), int(unit[-1])
        at, document, offset, piece = np.concatenate(found, 1)
        return at, document, offset, piece

    def targets(self, units: Ids) -> tuple[Ids, Ids]:
        """The number of targets in each unit, and their bytes. ``units``: where the units start."""
        count, size = np.zeros(len(units), np.int64), np.zeros(len(units), np.int64)
        for at in self._rows(first=1):
            unit = np.searchsorted(units, at, "right") - 1
            count += np.bincount(unit, minlength=len(units))
            size += np.bincount(unit, self.bytes[self.tokens[at]], len(units)).astype(np.int64)
        return count, size

    def _chunks(self) -> Iterator[tuple[Ids, Ids, Ids]]:
        """Position, document and bytes of the tokens of all rows, each token once."""
        last = -1
        for at in self._rows(first=0):
            at = at[np.diff(at, prepend=last) > 0]  # the last target of a row may be the first input of the next one
            last = int(at[-1])
            document = np.searchsorted(self.ends, at, "left") // self.documents_together
            yield at, document, self.bytes[self.tokens[at]]

    def _rows(self, first: int) -> Iterator[Ids]:
        """The positions of the tokens of all rows, from their ``first`` one to their last target."""
        rows = max(1, _CHUNK // self.context)
        for i in range(0, len(self.starts), rows):
            at = (self.starts[i : i + rows, None] + np.arange(first, self.context + 1)).ravel()
            yield at[at < len(self.tokens)]


def _positions(tokens: np.ndarray, token: int) -> Ids:
    """Where a token occurs."""
    chunks = range(0, len(tokens), _CHUNK)
    return np.concatenate([i + np.flatnonzero(np.asarray(tokens[i : i + _CHUNK]) == token) for i in chunks])
