"""Texts of any length: a file is decoded in chunks as often as it is needed, and no chunk is held longer than that."""

import codecs
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from gptx.errors import DataError

CHUNK = 2**18  # characters or bytes that are read at once
MAX_NULS = 0.01  # a text with a larger part of NUL characters is refused

# byte-order marks; those of utf-32 first, because that of utf-32-le starts with that of utf-16-le
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class LongText:
    """A text that is read in chunks. Like a string it has a length and slices; it is false if it is empty.

    Args:
        read: returns the chunks, from the first one on; it is called whenever the text is read.
    """

    def __init__(self, read: Callable[[], Iterator[str]]) -> None:
        self.chunks = read

    @cached_property
    def _length(self) -> int:
        return sum(map(len, self.chunks()))

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return any(self.chunks())

    def __getitem__(self, part: slice) -> "LongText":
        """A part of the text, without a step."""
        start, stop, _ = part.indices(len(self))
        return LongText(lambda: _between(self.chunks(), start, stop))

    def __str__(self) -> str:
        """The whole text, in memory."""
        return "".join(self.chunks())


def _between(chunks: Iterator[str], start: int, stop: int) -> Iterator[str]:
    at = 0
    for chunk in chunks:
        if at >= stop:
            return
        if part := chunk[max(0, start - at) : stop - at]:
            yield part
        at += len(chunk)


def pieces(document: str | LongText, cut: Callable[[str], int]) -> Iterator[str]:
    """Yield a document in parts that are encoded separately.

    Args:
        cut: `gptx.tokenizer.base.Tokenizer.cut`. Where it finds no position, the parts get longer.
    """
    held: list[str] = []
    for chunk in _slices(document) if isinstance(document, str) else document.chunks():
        if held and (at := cut(held[-1])):
            *before, last = held
            yield "".join([*before, last[:at]])
            held = [last[at:]]
        held.append(chunk)
    if rest := "".join(held):
        yield rest


def _slices(text: str) -> Iterator[str]:
    return (text[i : i + CHUNK] for i in range(0, len(text), CHUNK))


def mark_of(path: Path) -> tuple[str, int]:
    """The encoding of a text file by its byte-order mark, and the length of the mark; without a mark utf-8 and 0.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(4)
    return next(((encoding, len(mark)) for mark, encoding in MARKS.items() if head.startswith(mark)), ("utf-8", 0))


def read_text(path: Path) -> Iterator[str]:
    """Yield the text of a file in chunks, decoded by its byte-order mark, which is no part of the text.

    Raises:
        DataError: the file cannot be read, is no text in this encoding, or is full of NUL characters.
    """
    read = nuls = 0
    for text in _decoded(path):
        read, nuls = read + len(text), nuls + text.count("\0")
        if nuls > MAX_NULS * read:
            raise DataError(
                f"{path} is full of NUL characters ({nuls:,} of its first {read:,}): it is probably {_kind(text)}"
            )
        yield text


def _decoded(path: Path) -> Iterator[str]:
    try:
        encoding, start = mark_of(path)
        decoder = codecs.getincrementaldecoder(encoding)()
        with open(path, "rb") as file:
            file.seek(start)
            while True:
                at, data = file.tell() - len(decoder.getstate()[0]), file.read(CHUNK)
                if text := decoder.decode(data, final=not data):
                    yield text
                if not data:
                    return
    except UnicodeDecodeError as exc:
        byte = at + exc.start
        raise DataError(
            f"{path} is not {encoding} text (byte {byte}: {exc.reason}); convert it, e.g. with iconv"
        ) from exc
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc


def _kind(text: str) -> str:
    """What a file with this text, read as utf-8, probably is."""

    def empty(start: int, step: int) -> bool:
        part = text[start::step]
        return part.count("\0") > 0.8 * len(part)

    wide = {"UTF-32LE": (1, 2, 3), "UTF-32BE": (0, 1, 2)}
    names = [name for name, places in wide.items() if all(empty(place, 4) for place in places)]
    names += [name for name, place in {"UTF-16LE": 1, "UTF-16BE": 0}.items() if empty(place, 2)]
    if not names or not text.strip("\0"):
        return "binary data, or a file that was not written completely"
    return f"{names[0]} text without a byte-order mark; convert it with iconv -f {names[0]} -t UTF-8"
