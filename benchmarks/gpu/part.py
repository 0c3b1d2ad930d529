"""What a part of the benchmark consists of, and its results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


@dataclass(frozen=True)
class Settings:
    """What all parts know.

    Attributes:
        device: "cuda", or "cpu" for a rehearsal at toy size.
        gpus: the number of GPUs; 0 on a CPU.
        scratch: a temporary folder, which is also the working directory of the parts.
        peer: a checkout of nanoGPT; "": none.
    """

    device: str
    gpus: int
    scratch: str
    peer: str = ""

    @property
    def toy(self) -> bool:
        return self.device == "cpu"


class Unsupported(Exception):
    """A case cannot be measured here; the text is one line and says why. This is a result, not a failure."""


class Figures(Protocol):
    """What a case measures: a dataclass of numbers and texts, which the JSON file holds as they are."""

    @property
    def text(self) -> str:
        """The figures in a few words, for a line of progress."""

    @property
    def wrong(self) -> str:
        """Why the figures show a fault of gptx; "": they show none."""


class State(StrEnum):
    """How a case ended."""

    OK = "ok"
    WRONG = "wrong"  # measured, and the figures show a fault
    UNSUPPORTED = "unsupported"
    NO_MEMORY = "out of memory"
    FAILED = "failed"
    CUT = "cut off"
    NOT_RUN = "not run"


GOOD = (State.OK, State.UNSUPPORTED)


@dataclass(frozen=True)
class Row:
    """The result of a case. ``text``: the figures in words, or what happened instead."""

    case: str
    state: State
    seconds: float
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


class Progress(StrEnum):
    """How far a part has come."""

    WAITING = "not run"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    CUT = "cut off"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass
class PartResult:
    """The results of a part so far. ``note``: why it was skipped or has ended early; ``limit``: in seconds."""

    name: str
    progress: Progress = Progress.WAITING
    note: str = ""
    limit: float = 0.0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing and nothing is wrong."""
        good = all(row.state in GOOD for row in self.rows)
        return self.progress == Progress.SKIPPED or (self.progress == Progress.DONE and good)

    def measured(self) -> list[Row]:
        """The rows with figures, be they complete or not."""
        return [row for row in self.rows if row.figures]


Results = Mapping[str, PartResult]
Partial = Callable[[Figures], None]  # called with the figures so far, which remain if the case is cut off


@dataclass(frozen=True)
class Part:
    """One part of the benchmark: the constant PART of the module in which `measure` is defined.

    Attributes:
        share: of the time of all parts, relative to their sum, about the seconds of eight minutes; what it leaves is
            added to the parts after it.
        case_limit: the seconds after which a single case is cut off, and the next one starts in a new process.
        cases: the arguments of `measure` by the name of the case, most valuable first.
        measure: measures one case, in the process of the part.
        tables: the markdown of its results.
        skip: why the part cannot run on this machine; "": it can.
    """

    name: str
    title: str
    share: float
    case_limit: float
    cases: Callable[[Settings], Mapping[str, Any]]
    measure: Callable[[Any, Settings, Partial], Figures]
    tables: Callable[[Sequence[Row], Results], str]
    skip: Callable[[Settings], str] = lambda settings: ""


def one_line(error: BaseException, most: int = 200) -> str:
    """The type and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"
