"""The files that commands write their results to; ``-`` is stdout."""

import os
from pathlib import Path

from gptx.errors import GptxError
from gptx.terminal import echo, write_data

STDOUT = Path("-")


def output_file(name: str) -> Path:
    """The file of an option; ``/dev/stdout`` is not opened a second time, because it would overwrite what is there."""
    return STDOUT if name == "/dev/stdout" else Path(name)


def check_output(option: str, path: Path | None) -> None:
    """Check the file of an option before the work starts.

    Raises:
        GptxError: its folder is missing, or it is a folder.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise GptxError(
            f"{option} {path}: the folder {path.parent} does not exist; create it with mkdir -p {path.parent}"
        )
    if path.is_dir():
        raise GptxError(f"{option} {path}: this is a folder, expected a file name")


def write_output(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it, so that no reader sees an incomplete file. A device or a link
    is written in place, and `STDOUT` is printed.

    Raises:
        GptxError: it cannot be written.
    """
    if path == STDOUT and isinstance(content, str):
        write_data(content)
        return
    in_place = path.is_symlink() or (path.exists() and not path.is_file())
    part = path if in_place else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        if not in_place:
            part.replace(path)
    except OSError as error:
        raise GptxError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if not in_place:
            part.unlink(missing_ok=True)
    echo(f" wrote {path}")
