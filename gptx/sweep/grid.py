"""The grid: every combination of a multirun command line, one process a run.

A run in its own process cannot take its neighbours with it, whatever it dies of. There is no ledger besides the run
folders: what is finished is shown by its result and not run again.
"""

import sys
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from gptx.config import compose, explain, plain_dict
from gptx.errors import ConfigError, GptxError
from gptx.preflight import folder_of, preflight
from gptx.processes import run_child
from gptx.runfolder import RunFolder
from gptx.tracking import Follower


@dataclass
class Cell:
    """One combination: its overrides, what of them sets it apart, its config, its run folder, and why it failed."""

    overrides: list[str]
    title: str
    cfg: DictConfig
    folder: RunFolder | None
    failure: str = ""


class GridSweeper(Sweeper):
    """`python -m gptx.run -m attention=mha,gqa seed=0,1`. Hydra calls `setup`, then `sweep`."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        assert self.context is not None and self.config is not None
        combinations = self._combinations(arguments)
        varied = [len(set(column)) > 1 for column in zip(*combinations, strict=True)]
        cells = [_cell(overrides, " ".join(compress(overrides, varied))) for overrides in combinations]
        raise SystemExit(_run_all(cells, self._config_dir()))

    def _combinations(self, arguments: list[str]) -> list[list[str]]:
        assert self.context is not None
        parsed = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(overrides=arguments)
        try:
            batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        except Exception as error:  # Hydra raises what it likes for a malformed sweep
            raise ConfigError(explain(error)) from error
        return [list(overrides) for batch in batches for overrides in batch]

    def _config_dir(self) -> list[str]:
        """A user's own --config-dir, handed on to each run."""
        assert self.config is not None
        sources = self.config.hydra.runtime.config_sources
        return [word for s in sources if s.provider == "command-line" for word in ("--config-dir", s.path)]


def _cell(overrides: list[str], title: str) -> Cell:
    """Composed and named. A typo is refused here, for the whole grid: no other run would mend it."""
    cfg = compose(overrides)
    try:
        return Cell(overrides, title, cfg, folder_of(cfg)[0])
    except ConfigError:
        raise
    except Exception as error:  # a text that is not there, a corpus whose code breaks: the others may be well
        return Cell(overrides, title, cfg, None, _reason(error))


def _run_all(cells: list[Cell], config_dir: list[str]) -> int:
    """Check all cells, run those that can be, list the failures and compare what is finished; the exit code."""
    for cell in cells:
        cell.failure = cell.failure or ("" if _done(cell) else _refusal(cell))
    folders = [cell.folder.path for cell in cells if cell.folder and not cell.failure]
    print(f"{len(cells)} combinations: {sum(map(_done, cells))} finished already, {len(cells) - len(folders)} refused")
    if folders:
        cfg = cells[0].cfg
        follower = Follower.start(folders, plain_dict(cfg)["tracking"], Path(cfg.paths.outputs))
        try:
            for number, cell in enumerate(cells, 1):
                if not cell.failure and not _done(cell):
                    print(f"\n[{number}/{len(cells)}] {cell.title or 'the only one'}", flush=True)
                    cell.failure = _run(cell, config_dir)
        finally:
            warning = follower.finish() if follower else None
            if warning:
                print(f"gptx: {warning}", file=sys.stderr)
    return _close(cells)


def _refusal(cell: Cell) -> str:
    try:
        preflight(cell.cfg)
    except Exception as error:  # a part's own code may break in any way: that is its cell's end, not the grid's
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, GptxError) else f"{type(error).__name__}: {error}"


def _done(cell: Cell) -> bool:
    return bool(cell.folder and cell.folder.finished() and not cell.cfg.force)


def _run(cell: Cell, config_dir: list[str]) -> str:
    """Run one cell in a process of its own; returns why it failed, or nothing."""
    # One process replays all journals of the sweep into MLflow; the runs need not start one each.
    overrides = [*cell.overrides, "tracking.follow=false", "runtime.brief=true"]
    code = run_child([sys.executable, "-m", "gptx.run", *config_dir, *overrides])
    if code == 0:
        return ""
    result = (cell.folder.result() if cell.folder else None) or {}
    died = f"its process was ended by signal {-code}" if code < 0 else f"its process ended with code {code} (see above)"
    return str(result.get("error") or died)


def _close(cells: list[Cell]) -> int:
    """The comparison of what is finished, then every failure with its reason."""
    from gptx.compare.render import show

    done = [cell.folder.path for cell in cells if cell.folder and cell.folder.finished()]
    if done:
        print()
        show(done)
    failed = [cell for cell in cells if cell.failure]
    if failed:
        print(f"\n{len(failed)} of {len(cells)} failed:", file=sys.stderr)
    for cell in failed:
        print(f"  {cell.title}\n    {cell.failure}", file=sys.stderr)
    return 1 if failed else 0
