"""The contract of a launcher: where the runs of a sweep are started. One file and one YAML (in launch/) each."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from omegaconf import DictConfig, OmegaConf

from gptx.config.compose import plain_dict, plugin_keys
from gptx.config.instantiate import part
from gptx.config.overrides import key_of
from gptx.errors import ConfigError
from gptx.runs.folder import RunFolder
from gptx.sweep.state.folder import Sweep

if TYPE_CHECKING:
    from gptx.hardware.device import Machine


@dataclass(frozen=True)
class Task:
    """One run, as a launcher starts it: ``python -m gptx.run *words``.

    Attributes:
        title: what sets it apart from the sweep's other runs.
        folder: the run's.
        processes: how many its strategy has.
        device: "cpu", "cuda" or "mps".
        restarts: how often it starts lost processes again.
        modules: the user's own that it loads, by name, and where they lie.
    """

    title: str
    folder: Path
    words: tuple[str, ...]
    processes: int
    device: str
    restarts: int = 0
    modules: tuple[tuple[str, str], ...] = ()

    @property
    def forced(self) -> bool:
        """Whether it begins afresh (the last word counts)."""
        said = [word.partition("=")[2].lower() for word in self.words if key_of(word) == "force"]
        return said[-1:] == ["true"]


def uid(folder: Path) -> str:
    """Of the run that lies there; "": none does."""
    start = RunFolder(folder).start_record()
    return start.uid if start else ""


def forced_once(words: Sequence[str], folder: Path, replaces: str) -> list[str]:
    """The words of a further attempt. What lay in the folder before the first, ``replaces``, is what force=true is
    about; what the first has made of it is not."""
    return [*words, "force=false"] if uid(folder) not in ("", replaces) else list(words)


@dataclass(frozen=True)
class End:
    """Of one attempt at a task.

    Attributes:
        reason: "": the run is finished, or stands where ``runtime.until`` asked; else why not, in one line.
        final: to try again is pointless.
    """

    task: Task
    reason: str
    final: bool = False


class Launcher(ABC):
    """A context manager: what it still runs when it is left is killed.

    Attributes:
        detached: what is submitted runs on without this command.
        here: the runs share this machine.
        there: the machine that they are for, where it is another one.
        slots: how many run at once.
    """

    detached: bool = False
    here: bool = False
    there: "Machine | None" = None
    slots: int = 1

    def open(self, sweep: Sweep, options: DictConfig, runs: int) -> Self:
        """Before ``with``. ``options``: the config's ``sweep``; ``runs``: how many the sweep has, done or not.

        Raises:
            ConfigError: it cannot work here.
        """
        self.sweep, self.options = sweep, options
        return self

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Kill what runs."""

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> None:
        """Start them, or let them wait for a free slot."""

    @abstractmethod
    def wait(self) -> list[End]:
        """What has ended; blocks for a second at most."""

    @abstractmethod
    def stop(self, tasks: Collection[Task]) -> None:
        """They are to end after a checkpoint, and come back from `wait`; one that has not begun never will."""

    @abstractmethod
    def running(self) -> list[Task]:
        """What is being trained just now."""


def make(cfg: DictConfig) -> Launcher:
    """From the config's ``hydra.launcher``.

    Raises:
        ConfigError: a key that it has not, or a value that cannot be.
    """
    found = part(OmegaConf.create(plugin_keys("launcher", plain_dict(cfg))))
    if not isinstance(found, Launcher):
        raise ConfigError(f"hydra.launcher._target_={cfg._target_} is no {__name__}.Launcher: hydra/launcher=local is")
    return found
