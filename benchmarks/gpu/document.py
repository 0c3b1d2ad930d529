"""The results as JSON and as markdown, written again after every case: a file is always complete."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.kernel_times import derived
from benchmarks.gpu.part import GOOD, Part, PartResult, Progress, State
from benchmarks.report import markdown_table
from gptx.runs.atomic_files import write_json

NAME = "gpu"  # of the files


@dataclass
class Document:
    """Writes gpu.json and gpu.md.

    Args:
        command: the command line, for the record.
    """

    folder: Path
    parts: Sequence[Part]
    results: dict[str, PartResult]
    command: str
    minutes: float
    device: str
    began: float = field(default_factory=time.monotonic)
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
    ended: str = "it is still running, or was killed"

    @property
    def json(self) -> Path:
        return self.folder / f"{NAME}.json"

    @property
    def markdown(self) -> Path:
        return self.folder / f"{NAME}.md"

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 1)

    def write(self) -> None:
        facts = {"command": self.command, "date": self.date, "minutes": self.minutes, "device": self.device}
        facts |= {"seconds": self.seconds, "ended": self.ended}
        parts = [asdict(result) for result in self.results.values()]
        orders = derived(self.results["times"].measured()) if "times" in self.results else []
        write_json(self.json, finite({**facts, "parts": parts, "orders": orders}))
        part = self.folder / f".{NAME}.md.part"
        part.write_text(self.text(), encoding="utf-8")
        part.rename(self.markdown)

    def text(self) -> str:
        title = "# gptx on a GPU" if self.device == "cuda" else "# Rehearsal of the GPU benchmark on a CPU, at toy size"
        about = f"`{self.command}`, {self.date}: {self.seconds:.0f} s of {self.minutes * 60:.0f} s; {self.ended}."
        head = ("part", "", "cases", "seconds", "limit")
        rows = [self._status(part) for part in self.parts]
        sections = [self._section(part) for part in self.parts if self.results[part.name].rows]
        return "\n\n".join([title, about, markdown_table(head, rows), *sections]) + "\n"

    def _status(self, part: Part) -> tuple[str, ...]:
        result = self.results[part.name]
        progress = f"{result.progress}: {result.note}" if result.note else str(result.progress)
        counts = Counter(row.state for row in result.rows)
        cases = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
        return part.title, progress, cases, f"{result.seconds:.0f}", f"{result.limit:.0f}"

    def _section(self, part: Part) -> str:
        """Tables of what was measured, then what was not and why. A fault in a table must not lose the others."""
        result = self.results[part.name]
        blocks = [f"## {part.title}"]
        if rows := result.measured():
            try:
                blocks.append(part.tables(rows, self.results))
            except Exception as error:
                blocks.append(
                    f"The table cannot be made ({type(error).__name__}: {error}); {self.json.name} has the rows."
                )
        reasons: dict[str, list[str]] = {}
        for row in result.rows:
            if row.state != State.OK:
                reasons.setdefault(f"{row.state}: {escaped(row.text)}", []).append(row.case)
        blocks += ["\n".join(f"- {why}: {'; '.join(names)}" for why, names in reasons.items())] if reasons else []
        return "\n\n".join(blocks)

    def faults(self) -> list[str]:
        """What is missing or wrong, one text for each part."""
        found = []
        for part in self.parts:
            result = self.results[part.name]
            bad = Counter(row.state for row in result.rows if row.state not in GOOD)
            if not result.complete:
                counts = ", ".join(f"{number} {state}" for state, number in bad.items())
                found.append(f"{part.name}: {counts or result.progress}")
        return found

    def close(self, ended: str) -> None:
        """Write for the last time."""
        self.ended = ended
        for result in self.results.values():
            if result.progress == Progress.RUNNING:
                result.progress = Progress.INTERRUPTED
        self.write()


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def finite(value: Any) -> Any:
    """A value with inf and nan as texts: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
