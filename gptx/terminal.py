"""What all commands print: control characters are shown and not executed, and unknown characters are replaced.

Names, samples and error texts may come from a file that somebody else wrote. On a terminal, their escape sequences
would move the cursor, change the window's title or imitate gptx's own output. Therefore the other modules print with
`echo` and `write_data`, and use the classes of `gptx.console` instead of rich's.
"""

import contextlib
import io
import os
import re
import shlex
import string
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

# C0 but tab and newline, DEL, C1; marks that change the direction of text; line separators; halves of a character
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LITERAL = frozenset("/=.,:+-_" + string.ascii_letters + string.digits)  # as they are in a format of printf
_DASH = r"\\055"  # a dash at the start would be an option of printf


def visible(text: str) -> str:
    """The text with control characters as Python writes them, such as ``\\x1b``. Newlines and tabs are kept."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def echo(*lines: object, file: IO[str] | None = None) -> None:
    """Print each line at once, with control characters made visible. ``file``: default stdout."""
    stream = file or sys.stdout
    stream.write("".join(f"{visible(str(line))}\n" for line in lines or ("",)))
    stream.flush()


def shell_words(words: Iterable[str]) -> str:
    """A suggested command, or a part of it, as text that a POSIX shell reads as these words in each encoding of stdout.

    `echo` would replace a character that the encoding lacks, such as the dot in the name of a run folder, so that the
    command names another folder. Such a word is written as the output of printf, with its bytes as octal numbers.
    """
    return " ".join(map(_shell_word, words))


def path_text(path: Path) -> str:
    """A path for reading; as a word for a shell if stdout's encoding lacks one of its characters."""
    word = _shell_word(str(path))
    return word if word.startswith('"$(') else str(path)


def _shell_word(word: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        word.encode(encoding)
    except UnicodeEncodeError:
        coded = "".join(chr(byte) if chr(byte) in _LITERAL else f"\\{byte:03o}" for byte in os.fsencode(word))
        return f"\"$(printf '{re.sub('^-', _DASH, coded)}')\""
    return shlex.quote(word)


def write_data(text: str) -> None:
    """Write data to stdout: exactly this text, encoded as UTF-8; but on a terminal its visible form."""
    if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
        sys.stdout.write(visible(text))
        sys.stdout.flush()
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.buffer.flush()


def prepare() -> None:
    """Let this process and those that it starts print any character and name any file, whatever the locale.

    A character that a stream's encoding lacks is replaced. Where file names are not UTF-8, Python starts again in its
    UTF-8 mode, because run folders have names such as ``mha·rope``.
    """
    if sys.stdout.encoding and not _is_utf8(sys.stdout.encoding):
        os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:replace"
    if not _is_utf8(sys.getfilesystemencoding()) and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # it is closed, or cannot tell its position
                stream.reconfigure(errors="replace")


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("-", "").replace("_", "") == "utf8"
