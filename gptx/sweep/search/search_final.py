"""The runs that follow a search: its best trials train again, with seeds on which nothing was chosen."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.sweep.final_stage import FinalStage
from gptx.sweep.plan.cells import Cell, compose_cells
from gptx.sweep.plan.seed_sets import other_seeds, seed_sets
from gptx.sweep.search.search_context import SearchContext

if TYPE_CHECKING:  # optuna is imported only by a command that searches
    import optuna


def best_trials(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """The best trial, or those that no other trial beats in all metrics; of equal points the first."""
    from gptx.sweep.search.optuna_study import RUN

    if not any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        return []
    best = {trial.user_attrs[RUN]: trial for trial in reversed(study.best_trials)}
    return sorted(best.values(), key=lambda trial: trial.values)


def train_again(study: "optuna.Study", context: SearchContext, options: DictConfig) -> FinalStage | None:
    """Train the best trials with sweep.fresh_seeds other seeds. None if no trial has finished or none is to train."""
    winners = [_winner(trial) for trial in best_trials(study)]
    if not (winners and options.sweep.fresh_seeds):
        return None
    seeds = other_seeds(seed_sets([cell.overrides for cell in winners], options.seed), options.sweep.fresh_seeds)
    stage = FinalStage(context.launcher, context.journal, context.common, context.follow, options.sweep.retry)
    stage.run(winners, seeds)
    return stage


def _winner(trial: "optuna.trial.FrozenTrial") -> Cell:
    from gptx.sweep.search.optuna_study import OVERRIDES, TITLE

    [cell] = compose_cells([trial.user_attrs[OVERRIDES]])
    cell.arm = str(trial.user_attrs[TITLE])
    return cell
