"""The interface of a launcher, which starts the runs of a sweep. Each launcher is one class and one YAML in launch/."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from omegaconf import DictConfig, OmegaConf

from gptx.config.check_types import plugin_keys
from gptx.config.instantiate import part
from gptx.config.overrides import key_of
from gptx.config.plain_dict import plain_dict
from gptx.runs.folder import RunFolder
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import AttemptOutcome

if TYPE_CHECKING:
    from gptx.hardware.device import Machine


@dataclass(frozen=True)
class Task:
    """One run for a launcher to start, as ``python -m gptx.run *overrides``.

    Attributes:
        title: the overrides in which it differs from the sweep's other runs.
        folder: the run folder.
        overrides: all command-line arguments of the run.
        processes: number of processes that its strategy uses.
        device: "cpu", "cuda" or "mps".
        restarts: how often the strategy restarts lost processes.
        modules: (name, path) of the user's own modules that the run imports.
    """

    title: str
    folder: Path
    overrides: tuple[str, ...]
    processes: int
    device: str
    restarts: int = 0
    modules: tuple[tuple[str, str], ...] = ()

    @property
    def forced(self) -> bool:
        """Whether force=true is in effect; the last value counts."""
        values = [override.partition("=")[2].lower() for override in self.overrides if key_of(override) == "force"]
        return values[-1:] == ["true"]


@dataclass(frozen=True)
class End:
    """How one attempt at a task ended. ``reason``: why the run did not reach its end, in one line; empty if it did."""

    task: Task
    outcome: AttemptOutcome
    reason: str = ""


def run_uid(folder: Path) -> str:
    """The uid of the run in a folder, or "" if the folder has none."""
    start = RunFolder(folder).start_record()
    return start.uid if start else ""


def force_once(overrides: Sequence[str], folder: Path, replaces: str) -> list[str]:
    """The overrides of an attempt, without force=true if an earlier attempt has already replaced the old run.

    Args:
        folder: the run folder.
        replaces: uid of the run that was in the folder before the first attempt; only that run is to be replaced.
    """
    return [*overrides, "force=false"] if run_uid(folder) not in ("", replaces) else list(overrides)


class Launcher(ABC):
    """A context manager that starts runs; on exit it kills those that are still running.

    Attributes:
        detached: submitted runs continue after this command has ended.
        on_this_machine: the runs use this machine.
        machine: the machine that the runs are for, if it is another one.
        slots: the maximum number of runs that train at the same time.
    """

    detached: bool = False
    on_this_machine: bool = False
    machine: "Machine | None" = None
    slots: int = 1

    def open(self, sweep: Sweep, options: DictConfig, runs: int) -> Self:
        """Prepare to launch runs; called before ``with``.

        Args:
            options: the config's ``sweep`` section.
            runs: number of runs in the sweep, finished ones included.

        Raises:
            ConfigError: the launcher cannot work here.
        """
        self.sweep, self.options = sweep, options
        return self

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Kill the runs that are still running."""

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> None:
        """Start tasks, or queue them until a slot is free."""

    @abstractmethod
    def wait(self) -> list[End]:
        """The attempts that have ended since the last call. Blocks for at most a second."""

    @abstractmethod
    def stop(self, tasks: Collection[Task]) -> None:
        """Make running tasks save a checkpoint and end, and drop queued ones. `wait` returns the running ones only."""

    @abstractmethod
    def running(self) -> list[Task]:
        """The tasks that are training now."""


def make(cfg: DictConfig) -> Launcher:
    """The launcher of the config's ``hydra.launcher`` section.

    Raises:
        ConfigError: an unknown key, a wrong value, or a class that is not a launcher.
    """
    checked = OmegaConf.create({"hydra": {"launcher": plugin_keys("launcher", plain_dict(cfg))}})
    launcher: Launcher = part(checked.hydra.launcher)
    return launcher
