"""The folder of a run: where everything lies, who works in it, and how it ends."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from gptx.errors import ConfigError, RunFailed
from gptx.runs import checkpoint_files, journal
from gptx.runs.journal import Journal


class RunFolder:
    """``outputs/<study>/<name>-<identity>/``. Nothing is made before `lock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    def result(self) -> dict[str, Any] | None:
        """result.json, or None where there is none (a damaged one counts as none: the journal has it all)."""
        try:
            found: dict[str, Any] = json.loads((self.path / "result.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def finished(self) -> bool:
        result = self.result()
        return result is not None and result.get("status") == "finished"

    def start_record(self) -> dict[str, Any] | None:
        """The journal's first record: what the run is."""
        return next((r for r in journal.read(self.path) if r["kind"] == "start"), None)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run: see `held`."""
        return held(self.path, "trained")

    def set_aside(self, outputs: Path) -> str | None:
        """Move an earlier attempt out of the way (force=true) and return its uid; nothing computed is deleted.

        The journal goes last: killed on the way, the folder never holds old checkpoints that nothing accounts for.
        """
        start = self.start_record()
        if start is None:
            return None
        aside = outputs / ".replaced" / self.path.parent.name / f"{self.path.name}-{time.time_ns()}"
        aside.mkdir(parents=True)
        for item in sorted(self.path.iterdir(), key=lambda item: item.name == journal.NAME):
            if item.name not in (journal.LOCK, "logs"):  # held by us; other ranks of torchrun may write already
                item.rename(aside / item.name)
        return str(start["uid"])

    def end(self, status: str, measured: dict[str, Any] | None = None, error: str | None = None) -> dict[str, Any]:
        """Write result.json and the journal's end record: what the run was, and what was measured."""
        start = self.start_record()
        assert start is not None, "a run that has not started cannot end"
        facts = {
            key: value for key, value in start.items() if key not in ("t", "kind", "pid", "host", "data", "replaces")
        }
        records = list(journal.read(self.path))
        last = max((r["step"] for r in records if r["kind"] == "metrics"), default=0)
        data = {key: start["data"][key] for key in ("corpus_hash", "tokenizer_hash")}
        result = {"status": status, **facts, **data, "steps": last, "seconds": _seconds(records)}
        result |= {**(measured or {}), "error": error}
        with Journal(self.path) as book:
            book.write("end", status=status, step=result["steps"], error=error, result=result)
        write_json(self.path / "result.json", result)
        return result

    def settle(self) -> None:
        """Write the result.json that a kill came before: the journal's end record has it. For who holds the lock."""
        if not (self.path / "config.yaml").exists():
            return  # a force=true that was killed while it set things aside
        last = next((r for r in reversed(list(journal.read(self.path))) if r["kind"] in ("resume", "end")), None)
        if last is not None and last["kind"] == "end" and self.result() is None:
            write_json(self.path / "result.json", last["result"])


@contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder, which is made; the kernel lets go when this process ends, however it ends. ``doing``: trained, ...

    Raises:
        ConfigError: another living process holds it.
        RunFailed: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open(folder / journal.LOCK, "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise RunFailed(f"could not write {folder}: {error.strerror or error}") from error
    with opened as file:
        deadline = time.monotonic() + 1.0  # a process that was killed may take a moment to die
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline and not _only_looked_at(file):
                    file.seek(0)
                    raise ConfigError(f"{folder} is being {doing} already, by {file.read().strip()}") from None
                time.sleep(0.01)
        with contextlib.suppress(OSError):  # on a full disk the lock holds as well, without a name
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
        yield


def _only_looked_at(file: IO[str]) -> bool:
    """Whether those who keep us from the lock share it."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _seconds(records: list[journal.Record]) -> float:
    """Time at work: from each start or resume to the last thing that this attempt wrote down."""
    spans = [
        after["t"] - before["t"] for before, after in pairwise(records) if after["kind"] not in ("start", "resume")
    ]
    return float(sum(spans)) / 1000


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all.

    Raises:
        RunFailed: the disk is full or not writable.
    """
    try:
        checkpoint_files.write_json(path, value, indent=1)
    except OSError as error:
        raise RunFailed(f"could not write {path}: {error}") from error
