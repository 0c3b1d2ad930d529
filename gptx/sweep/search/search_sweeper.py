"""A search: optuna proposes points of a space, and each point is trained as a run; as many runs as fit train at once.

The same command resumes a search; a larger ``n_trials`` adds trials to it.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from gptx.cli import log
from gptx.config.check_types import plugin_keys
from gptx.config.compositions import Compositions
from gptx.config.plain_dict import plain_dict
from gptx.errors import ConfigError
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import Launcher, make
from gptx.sweep.execute.loop import drive
from gptx.sweep.plan.cells import compose_cells
from gptx.sweep.plan.partial_keys import PartialKeys
from gptx.sweep.search.search_report import close_search, show_estimate, show_search
from gptx.sweep.search.space import Space
from gptx.sweep.state.folder import Sweep, SweepKind, sweep_name
from gptx.sweep.sweeper_base import SweeperBase, following

if TYPE_CHECKING:  # optuna is imported only by a command that searches
    from gptx.sweep.search.optuna_study import SearchOptions


class SearchSweeper(SweeperBase):
    """`python -m gptx.run -m hydra/sweeper=optuna 'optim.lr=tag(log,interval(1e-4,1e-2))' attention=mha,gqa`."""

    kind = SweepKind.OPTUNA

    def __init__(self, *, params: DictConfig, **keys: Any) -> None:
        super().__init__(params=params)  # the other keys are read by `_search_options`, which checks them

    def _run(self, overrides: list[str], of_sweep: list[str]) -> int:
        """Check the space, search it, and print what was found."""
        search = self._search_options()
        space = Space.of(self._parse(overrides))
        compositions = Compositions()
        keys = PartialKeys(space.examples(), compositions)
        if remark := keys.remark():
            log.warning("%s", remark)
        examples = compose_cells(keys.all_applied(space.examples()), compositions)
        if wrong := [cell.rejection for cell in examples if not cell.config]:  # a wrong key or value
            raise ConfigError(wrong[0])
        first = examples[0]
        if first.folder is None:
            raise ConfigError(first.rejection)
        options = self._options(first.overrides, of_sweep)
        check_options(options, search, space)
        launcher = make(self.hydra.launcher)
        if launcher.detached:
            raise ConfigError(
                "a search needs the results of its runs; use hydra.launcher.wait=true or hydra/launcher=local"
            )
        # These texts name the sweep's folder: changing them would make every earlier search a new one.
        parts = [first.name, str(space), *(f"best {metric}" for metric in search.metrics)]
        sweep = Sweep(Path(options.paths.outputs), sweep_name(options.study, parts))
        launcher.open(sweep, options.sweep, search.n_trials)
        show_search(search, space, sweep, options.study)
        if options.dry_run:
            show_estimate(search.n_trials, examples, launcher, options)
            return 0
        return self._search(search, space, keys, options, launcher, sweep)

    def _search_options(self) -> "SearchOptions":
        from gptx.sweep.search.optuna_study import SearchOptions

        given = plugin_keys("sweeper", plain_dict(self.hydra.sweeper))
        options = SearchOptions(**{key: value for key, value in given.items() if key not in ("_target_", "params")})
        options.check()
        return options

    def _search(
        self,
        search: "SearchOptions",
        space: Space,
        keys: PartialKeys,
        options: DictConfig,
        launcher: Launcher,
        sweep: Sweep,
    ) -> int:
        from gptx.sweep.search.optuna_study import open_study, pruner_of, rejection
        from gptx.sweep.search.search_context import SearchContext
        from gptx.sweep.search.search_final import train_again
        from gptx.sweep.search.trial_source import TrialSource

        known = sweep.plan.cells
        plan = replace(self._plan([], options), cells=known, has_final_cells=bool(options.sweep.fresh_seeds))
        folders = [sweep.outputs / cell.run for cell in known if cell.run]
        with following(options, folders, sweep) as follow:  # until the report is written
            with sweep.work(plan) as journal:
                study = open_study(sweep.path, search, pruner_of(search, options.trainer.eval_every))
                ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
                dashboard = Dashboard(search.n_trials, sum(not rejection(trial) for trial in ended), {}, 0.0)
                context = SearchContext(
                    search, space, self._common(), launcher, sweep, journal, dashboard, follow, keys
                )
                trials = TrialSource(study, context)
                drive(trials, launcher, journal, dashboard, options.sweep.retry)
                final = None if trials.abandoned else train_again(study, context, options)
            code = close_search(study, search, sweep, self._config_dirs(), final)
        if trials.abandoned:
            raise ConfigError(f"the search was abandoned: {trials.abandoned}")
        return code


def check_options(options: DictConfig, search: "SearchOptions", space: Space) -> None:
    """Reject options that apply to a grid only."""
    if options.force:
        raise ConfigError("force=true: a search does not repeat finished runs; use another study= for a new search")
    of_grids = {
        "match": options.variant.match != "none",
        "sweep.lr": options.sweep.lr,
        "sweep.lr_seeds": options.sweep.lr_seeds != 1,
        "sweep.halving": options.sweep.halving,
        "sweep.seeds": options.sweep.seeds,
    }
    if given := [key for key, value in of_grids.items() if value]:
        raise ConfigError(f"{given[0]} is an option of a grid, not of a search; remove it or use hydra/sweeper=grid")
    if options.runtime.until:
        raise ConfigError(f"runtime.until={options.runtime.until}: the runs of a search train to the end; remove it")
    for key in ("trainer.max_steps", "trainer.eval_every"):
        if search.pruned_by and key in (dimension.key for dimension in space.dimensions):
            raise ConfigError(
                f"hydra.sweeper.pruner={search.pruner} compares runs at the same steps, so {key} cannot be searched; "
                "give it one value or use pruner=none"
            )
