"""A search: optuna proposes points of a space, runs try them, as many at once as there is room for.

The same command goes on with it, and with more trials where ``n_trials`` is larger.
"""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from gptx.config.compose import plain_dict, plugin_keys
from gptx.errors import ConfigError
from gptx.sweep.base import Base, following, listed
from gptx.sweep.execute.launcher import Launcher, make
from gptx.sweep.execute.loop import drive
from gptx.sweep.plan.cells import Cell, cells, check
from gptx.sweep.search.space import Space
from gptx.sweep.state.dashboard import Board
from gptx.sweep.state.folder import Sweep, name_of, sweeps

if TYPE_CHECKING:  # optuna is loaded when it is searched, and not by every command
    import optuna

    from gptx.sweep.search.study import Keys


class SearchSweeper(Base):
    """`python -m gptx.run -m hydra/sweeper=optuna 'optim.lr=tag(log,interval(1e-4,1e-2))' attention=mha,gqa`."""

    kind = "optuna"

    def __init__(self, *, params: DictConfig, **keys: Any) -> None:
        super().__init__(params=params)  # the keys are read when they are checked

    def _run(self, words: list[str], whole: list[str]) -> int:
        """Check the space, search it, and show what was found."""
        keys = self._keys()
        space = Space.of(self._parsed(words))
        corners = cells(space.corners())
        if wrong := [cell.refusal for cell in corners if not cell.cfg]:  # a typo
            raise ConfigError(wrong[0])
        first = corners[0]
        if first.folder is None:
            raise ConfigError(first.refusal)
        options = self._options(first.overrides, whole)
        _check(options, keys, space)
        launcher = make(self.hydra.launcher)
        if launcher.detached:
            raise ConfigError("a search has to see how its runs end: hydra.launcher.wait=true, or hydra/launcher=local")
        meant = [first.folder.path.name, str(space), *(f"best {metric}" for metric in keys.metrics)]
        sweep = Sweep(Path(options.paths.outputs), name_of(options.study, meant))
        launcher.open(sweep, options.sweep, keys.n_trials)
        _show(keys, space, sweep, options.study)
        if options.dry_run:
            _forecast(keys.n_trials, corners, launcher, options)
            return 0
        return self._search(keys, space, options, launcher, sweep)

    def _keys(self) -> "Keys":
        from gptx.sweep.search.study import Keys

        given = plugin_keys("sweeper", plain_dict(self.hydra.sweeper))
        keys = Keys(**{key: value for key, value in given.items() if key not in ("_target_", "params")})
        keys.check()
        return keys

    def _search(self, keys: "Keys", space: Space, options: DictConfig, launcher: Launcher, sweep: Sweep) -> int:
        from gptx.sweep.search.study import open_study, pruner
        from gptx.sweep.search.trials import Trials, refused

        known = sweep.plan["cells"] if (sweep.path / "plan.json").exists() else []
        with sweep.work(self._plan([], options) | {"cells": known}) as book:
            study = open_study(sweep.path, keys, pruner(keys, options.trainer.eval_every))
            ended = [
                trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and not refused(trial)
            ]
            board = Board(keys.n_trials, len(ended), {}, 0.0)
            with following(options, [sweep.outputs / cell["run"] for cell in known]) as follow:
                trials = Trials(study, keys, space, self._words(), launcher, sweep, book, board, follow)
                drive(trials, launcher, book, board, options.sweep.retry)
        code = _close(study, keys, sweep, self._own())
        if trials.given_up:
            raise ConfigError(f"the search was given up: {trials.given_up}")
        return code


def _check(options: DictConfig, keys: "Keys", space: Space) -> None:
    """Refuse what goes with a grid, and not with a search."""
    if options.force:
        raise ConfigError("force=true: a search takes finished runs as they are; another study= begins afresh")
    grids = {"match": options.variant.match != "none", "sweep.lr": options.sweep.lr}
    if given := [key for key, value in (grids | {"sweep.halving": options.sweep.halving}).items() if value]:
        raise ConfigError(f"{given[0]} is of a grid, and a search has none: leave it out, or hydra/sweeper=grid")
    if options.runtime.until:
        raise ConfigError(f"runtime.until={options.runtime.until}: the trials of a search are whole runs; leave it out")
    for key in ("trainer.max_steps", "trainer.eval_every"):
        if keys.curve and key in (axis.key for axis in space.axes):
            raise ConfigError(
                f"hydra.sweeper.pruner={keys.pruner} compares runs step by step, so {key} cannot be searched"
            )


def _show(keys: "Keys", space: Space, sweep: Sweep, study: str) -> None:
    best = ", ".join(f"{m} ({way.name.lower()})" for m, way in zip(keys.metrics, keys.directions, strict=True))
    pruned = f", pruned by {keys.pruner}" if keys.curve else ""
    print(f"{keys.n_trials} trials by {keys.sampler}{pruned}, for {best}, in {sweep.path}")
    print(space)
    others = [] if sweep.path.exists() else [other for other in sweeps(sweep.outputs) if other.plan["study"] == study]
    if names := [other.name for other in others if other.plan["kind"] == SearchSweeper.kind]:
        print(f"a new search; {', '.join(names)} of study={study} goes on by the space and metrics that it began with")


def _forecast(trials: int, corners: Sequence[Cell], launcher: Launcher, options: DictConfig) -> None:
    """What is done, what is to come, and what that takes, as far as the corners of the space tell."""
    from gptx.sweep.plan.memory_fit import check_memory, human
    from gptx.sweep.plan.preview import clock, last, refusals
    from gptx.sweep.plan.time_estimate import Pace

    done = len({record["number"] for record in launcher.sweep.records("trial")})
    left, whole, sources = max(0, trials - done), 0.0, []
    if left:
        check(corners, launcher.there)
        launcher.slots, note = check_memory(corners, launcher.slots, launcher.here)
        able = [cell for cell in corners if not cell.refusal and not cell.done]
        pace = Pace(Path(options.paths.outputs), launcher.slots, launcher.here)
        priced = [(seconds, source) for seconds, source in map(pace.seconds, able) if seconds]
        times, sources = [seconds for seconds, _ in priced], [source for _, source in priced]
        sizes = [cell.facts["memory_bytes"] for cell in able if "memory_bytes" in cell.facts]
        whole = mean(times) * left / min(left, launcher.slots) if times else 0.0
        known = {"holds": list(map(human, sorted(sizes))), "takes": list(map(clock, sorted(times)))}
        said = [f"{does} {' to '.join(dict.fromkeys([told[0], told[-1]]))}" for does, told in known.items() if told]
        corner = f"at the corners a trial {' and '.join(said)}" if said else ""
        for line in filter(None, (*refusals(corners), note, corner)):
            print(line)
    print(last("trial", ["done"] * done + ["run"] * left, launcher.slots, whole, sources))


def _close(study: "optuna.Study", keys: "Keys", sweep: Sweep, own: Sequence[str]) -> int:
    """The comparison of the finished runs, the best trials, and why others came to nothing; the exit code."""
    from gptx.compare.render import show
    from gptx.sweep.search.study import importances
    from gptx.sweep.search.trials import refused

    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if done:
        print()
        show(sorted({sweep.outputs / trial.user_attrs["run"] for trial in done}))
        _best(study, keys, own)
    if found := importances(study):
        print(f"\nwhat decides it, as far as {len(done)} trials tell: ", end="")
        print(", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    never = {trial.user_attrs["title"]: why for trial in trials if (why := refused(trial))}
    counts = Counter(trial.state.name for trial in trials if not refused(trial))
    said = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "not ended"}
    parts = [f"{counts[state]} {word}" for state, word in said.items() if counts[state]]
    print(f"\n{', '.join([*parts, *([f'{len(never)} points refused'] if never else [])])}")
    listed("refused", never, len(trials))
    failed = {t.user_attrs["title"]: t.user_attrs["reason"] for t in trials if t.state.name == "FAIL"}
    listed("failed", failed, len(trials))
    return 1 if failed else 0


def _best(study: "optuna.Study", keys: "Keys", own: Sequence[str]) -> None:
    best = {trial.user_attrs["run"]: trial for trial in reversed(study.best_trials)}
    if len(keys.metrics) == 1:
        print("\nthe best:")
    else:
        print(f"\nno other trial is better in {' and '.join(keys.metrics)} than each of these {len(best)}:")
    for trial in sorted(best.values(), key=lambda trial: trial.values):
        values = ", ".join(f"{m} {value:,.6g}" for m, value in zip(keys.metrics, trial.values, strict=True))
        print(f"  {trial.user_attrs['title']}: {values}")
        print(f"    {shlex.join(['python', '-m', 'gptx.run', *own, *trial.user_attrs['words']])}")
