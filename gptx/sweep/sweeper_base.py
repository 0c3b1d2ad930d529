"""What gptx's sweepers share: Hydra's call becomes run overrides, options and a plan; MLflow follows the runs."""

import shlex
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from gptx.cli import log
from gptx.config.command import typed
from gptx.config.compose import compose
from gptx.config.overrides import about_sweeps, key_of
from gptx.config.plain_dict import plain_dict
from gptx.sweep.execute import prewarm
from gptx.sweep.plan.cells import Cell
from gptx.sweep.state.folder import Sweep, SweepKind, SweepPlan
from gptx.sweep.sweep_overrides import check_given_once
from gptx.tracking.follower import Follower


class SweeperBase(Sweeper):
    """A Hydra sweeper: Hydra calls `setup`, then `sweep`.

    Args:
        params: overrides of the YAML, such as a study's own grid.
    """

    kind: SweepKind

    def __init__(self, *, params: DictConfig) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.hydra = hydra_context, config.hydra

    def sweep(self, arguments: list[str]) -> Any:
        sys.argv = list(typed().arguments)
        prewarm.start_server()
        try:
            raise SystemExit(self._sweep(typed().overrides))
        finally:
            prewarm.stop_server()

    def _sweep(self, arguments: list[str]) -> int:
        overrides = [*self._study_overrides(arguments), *arguments]
        check_given_once(self._parse(overrides))
        of_sweep = [override for override in overrides if about_sweeps(override)]
        return self._run([override for override in overrides if not about_sweeps(override)], of_sweep)

    @abstractmethod
    def _run(self, overrides: list[str], of_sweep: list[str]) -> int:
        """Run the sweep; returns the exit code.

        Args:
            overrides: the overrides of the runs; some have several values.
            of_sweep: overrides that are options of the sweep.
        """

    def _options(self, overrides: Sequence[str], of_sweep: Sequence[str]) -> DictConfig:
        """The config with the options of the sweep. ``overrides``: of any of its runs."""
        return compose([*overrides, *of_sweep])

    def _study_overrides(self, arguments: Sequence[str]) -> list[str]:
        """The study's own grid, without the keys that the command line gives; its sweep.seeds gives the seeds."""
        given = {key_of(argument) for argument in arguments}
        given |= {"seed"} if "sweep.seeds=auto" in arguments else set()
        return [f"{key}={value}" for key, value in plain_dict(self.params).items() if key not in given]

    def _parse(self, overrides: list[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(overrides=overrides)

    def _config_dirs(self) -> list[str]:
        """The user's --config-dir, as arguments for each run."""
        sources = self.hydra.runtime.config_sources
        return [argument for s in sources if s.provider == "command-line" for argument in ("--config-dir", s.path)]

    def _common(self) -> list[str]:
        """Arguments that every run gets besides its own: the sweep itself follows the runs in MLflow."""
        return [*self._config_dirs(), "tracking.follow=false"]

    def _plan(self, cells: Sequence[Cell], options: DictConfig) -> SweepPlan:
        """The content of plan.json."""
        return SweepPlan(
            study=options.study,
            command=shlex.join(["python", "-m", "gptx.run", *sys.argv[1:]]),
            kind=self.kind,
            launcher=self.hydra.runtime.choices["hydra/launcher"],
            lr=bool(options.sweep.lr),
            factor=options.sweep.factor if options.sweep.halving else 0,
            cells=tuple(cell.planned() for cell in cells),
        )


@contextmanager
def following(
    options: DictConfig, folders: Sequence[Path], sweep: Sweep, *, needed: bool = True
) -> Iterator[Callable[[Path], None]]:
    """Show a sweep and its runs in MLflow while they train, and its report. Yields a function that adds the folder of
    another run. ``needed``: whether any run will train on this machine; otherwise MLflow has all of it."""
    tracking = plain_dict(options)["tracking"]
    follower = Follower.start(folders, tracking, Path(options.paths.outputs), sweep.path) if needed else None
    try:
        yield follower.add if follower else lambda folder: None
    finally:
        warning = follower.finish() if follower else None
        if warning:
            log.warning("%s", warning)
