"""What every sweep has, whatever it tries: its words, its launcher, its plan, the loop, and how it ends."""

import itertools
import shlex
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from gptx.config.compose import compose, explain, plain_dict
from gptx.config.overrides import about_sweeps, key_of
from gptx.errors import ConfigError
from gptx.sweep.execute import prewarmed
from gptx.sweep.execute.launcher import Launcher
from gptx.sweep.plan.cells import Cell
from gptx.sweep.state.folder import Sweep
from gptx.tracking.follower import Follower
from gptx.training.start import other_code


class Base(Sweeper):
    """Hydra calls `setup`, then `sweep`. ``params``: the YAML's."""

    kind = ""  # as the sweep's plan has it

    def __init__(self, *, params: DictConfig) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.hydra = hydra_context, config.hydra

    def sweep(self, arguments: list[str]) -> Any:
        prewarmed.stock()
        try:
            raise SystemExit(self._swept(arguments))
        finally:
            prewarmed.clear()

    def _swept(self, arguments: list[str]) -> int:
        given = [*self._of_study(arguments), *arguments]
        check_words(self._parsed(given))
        whole = [word for word in given if about_sweeps(word)]
        return self._run([word for word in given if not about_sweeps(word)], whole)

    @abstractmethod
    def _run(self, words: list[str], whole: list[str]) -> int:
        """Sweep; the exit code. ``whole``: the words that are about none of the runs."""

    def _options(self, words: Sequence[str], whole: Sequence[str]) -> DictConfig:
        """The config that says how to sweep. ``words``: of any of its runs."""
        options = compose([*words, *whole])
        for key in ("jobs", "retry", "timeout", "grace", "memory"):
            if options.sweep[key] < 0:
                raise ConfigError(f"sweep.{key}={options.sweep[key]}: expected at least 0")
        return options

    def _of_study(self, arguments: Sequence[str]) -> list[str]:
        """What the study sweeps itself, but for what the command line has."""
        typed = {key_of(word) for word in arguments}
        return [f"{key}={value}" for key, value in plain_dict(self.params).items() if key not in typed]

    def _parsed(self, words: list[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(overrides=words)

    def _combinations(self, words: list[str]) -> list[list[str]]:
        axes = {one.get_key_element(): words_of(one) for one in self._parsed(words)}
        return [list(words) for words in itertools.product(*axes.values())]

    def _own(self) -> list[str]:
        """A user's own --config-dir, for each run."""
        sources = self.hydra.runtime.config_sources
        return [word for s in sources if s.provider == "command-line" for word in ("--config-dir", s.path)]

    def _words(self) -> list[str]:
        """What every run gets besides its own words: the sweep follows for all."""
        return [*self._own(), "tracking.follow=false", "runtime.brief=true"]

    def _plan(self, found: Sequence[Cell], options: DictConfig) -> dict[str, Any]:
        return {
            "study": options.study,
            "command": shlex.join(["python", "-m", "gptx.run", *sys.argv[1:]]),
            "kind": self.kind,
            "launcher": self.hydra.runtime.choices["hydra/launcher"],
            "lr": bool(options.sweep.lr),
            "factor": options.sweep.factor if options.sweep.halving else 0,
            "cells": [cell.record() for cell in found],
        }


def check_words(parsed: Sequence[Override]) -> None:
    """Refuse several values where a sweep has one, and a key that has its values in two words."""
    given: dict[str, Override] = {}
    for one in parsed:
        word, key = str(one.input_line), key_of(str(one.input_line))
        first = given.setdefault(key, one)
        if one.is_sweep_override() and key == "experiment":
            raise ConfigError(f"{word}: a study is a sweep of its own, give one")
        if one.is_sweep_override() and (about_sweeps(word) or key == "paths.outputs"):
            raise ConfigError(f"{word} is about the whole sweep: give it one value")
        if first is not one and (one.is_sweep_override() or first.is_sweep_override()):
            raise ConfigError(f"{first.input_line} and {word}: the last alone would count, give {key} once")


def words_of(one: Override) -> list[str]:
    """The words that a word of a grid stands for."""
    key, word = one.get_key_element(), one.input_line
    if not one.is_sweep_override():
        return [f"{key}={one.get_value_element_as_str()}"]
    if not one.is_discrete_sweep():
        raise ConfigError(f"{word} is for hydra/sweeper=optuna; a grid takes values, such as optim.lr=1e-3,3e-3")
    try:
        values = [f"{key}={value}" for value in one.sweep_string_iterator()]
    except Exception as error:  # Hydra raises what it likes for a malformed sweep
        raise ConfigError(f"{word}: {explain(error)}") from error
    if not values:
        raise ConfigError(f"{word} means no value at all: the glob or the range in it is empty")
    return values


@contextmanager
def following(options: DictConfig, folders: Sequence[Path]) -> Iterator[Callable[[Path], None]]:
    """Show runs in MLflow while they train; what is yielded adds one."""
    follower = Follower.start(folders, plain_dict(options)["tracking"], Path(options.paths.outputs))
    try:
        yield follower.add if follower else lambda folder: None
    finally:
        warning = follower.finish() if follower else None
        if warning:
            print(f"gptx: {warning}", file=sys.stderr)


def survey(found: Sequence[Cell], launcher: Launcher, options: DictConfig, sweep: Sweep | None = None) -> float:
    """Show what will run, what it takes and what is refused, and let no more run at once than this machine can hold.

    Args:
        sweep: whose journal has what a halving has decided.

    Returns:
        The seconds that all of it is thought to take.
    """
    from gptx.sweep.plan.memory_fit import check_memory
    from gptx.sweep.plan.preview import show
    from gptx.sweep.plan.time_estimate import Pace
    from gptx.sweep.search.halving import Course

    runs = 0 if options.dry_run else sum(not (cell.refusal or cell.done) for cell in found)
    outputs = Path(options.paths.outputs)
    pace = Pace(outputs, launcher.slots, launcher.here, runs)  # the cores are shared so, whatever memory has to say
    launcher.slots, note = check_memory(found, launcher.slots, launcher.here)
    halves = sweep and options.sweep.halving and any(not cell.refusal for cell in found)
    course = Course.ahead(found, options.sweep.factor, sweep) if sweep and halves else None
    notes = [*([note] if note else []), *_of_other_code(found)]
    return show(found, launcher.slots, pace, options.about, notes, course)


def _of_other_code(found: Sequence[Cell]) -> list[str]:
    """A line where runs were made, or begun, by what the user's own modules said then."""
    names = [other_code(cell.folder) for cell in found if cell.folder and not (cell.refusal or cell.cfg.force)]
    if not any(names):
        return []
    what = ", ".join(sorted({name for some in names for name in some}))
    count = sum(map(bool, names))
    return [f"{count} made or begun by other code than is here ({what}): force=true begins them afresh"]


def close(
    done: Sequence[Path], found: Sequence[Cell], failed: Mapping[str, str], left_out: Mapping[str, str] | None = None
) -> int:
    """The comparison of the finished runs, then with its reason each that is not among them; the exit code."""
    from gptx.compare.render import show

    if done:
        print()
        show(done)
    refused = {cell.title: cell.refusal for cell in found if cell.refusal}
    for what, why in (("left out", left_out or {}), ("refused", refused), ("failed", failed)):
        listed(what, why, len(found))
    return 1 if failed else 0


def listed(what: str, why: Mapping[str, str], of: int) -> None:
    """Every title with its reason."""
    if why:
        lines = (f"  {title}\n    {reason}" for title, reason in why.items())
        print(f"\n{len(why)} of {of} {what}:", *lines, sep="\n", file=sys.stderr)
