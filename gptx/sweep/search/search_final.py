"""The runs that follow a search: its best trials train again, with seeds on which nothing was chosen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.loop import TaskList, drive
from gptx.sweep.plan.cell_checks import check_cells
from gptx.sweep.plan.cells import Cell, compose_cells
from gptx.sweep.plan.final_runs import add_final_cells, final_cells
from gptx.sweep.plan.seed_sets import other_seeds, seed_list, seed_sets
from gptx.sweep.search.search_context import SearchContext
from gptx.terminal import echo

if TYPE_CHECKING:  # optuna is imported only by a command that searches
    import optuna


def best_trials(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """The best trial, or those that no other trial beats in all metrics; of equal points the first."""
    from gptx.sweep.search.optuna_study import RUN

    if not any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        return []
    best = {trial.user_attrs[RUN]: trial for trial in reversed(study.best_trials)}
    return sorted(best.values(), key=lambda trial: trial.values)


def train_again(study: "optuna.Study", context: SearchContext, options: DictConfig) -> dict[str, str]:
    """Train the best trials with sweep.fresh_seeds other seeds; returns why runs failed, by title."""
    winners = [_winner(trial) for trial in best_trials(study)]
    if not (winners and options.sweep.fresh_seeds):
        return {}
    seeds = other_seeds(seed_sets([cell.overrides for cell in winners], options.seed), options.sweep.fresh_seeds)
    cells = final_cells(winners, seeds, None)
    check_cells(cells, context.launcher.machine)
    able = [cell for cell in cells if not cell.rejection]
    to_run = [cell for cell in able if not cell.done]
    add_final_cells(context.sweep, able)
    if not to_run:
        return {}
    echo(f"chosen: {' | '.join(cell.arm for cell in winners)}; training with {seed_list(seeds)}")
    return _train(to_run, len(able), context, options)


def _winner(trial: "optuna.trial.FrozenTrial") -> Cell:
    from gptx.sweep.search.optuna_study import OVERRIDES, TITLE

    [cell] = compose_cells([trial.user_attrs[OVERRIDES]])
    cell.arm = str(trial.user_attrs[TITLE])
    return cell


def _train(cells: Sequence[Cell], total: int, context: SearchContext, options: DictConfig) -> dict[str, str]:
    dashboard = Dashboard(total, total - len(cells), {}, 0.0)
    tasks = []
    for cell in cells:
        cell.create_folder()
        task = cell.task(context.common)
        context.follow(task.folder)
        dashboard.add_run(task.folder, cell.config["trainer"]["max_steps"])
        tasks.append(task)
    failed = drive(TaskList(tasks), context.launcher, context.journal, dashboard, options.sweep.retry)
    return {task.title: why for task, why in failed.items()}
