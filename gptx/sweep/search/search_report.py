"""The output of a search: its space and plan before it starts, and its best trials at the end."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.runs.metrics import BY_KEY
from gptx.sweep.end_report import list_reasons, show_comparison
from gptx.sweep.execute.launcher import Launcher
from gptx.sweep.final_stage import FinalStage
from gptx.sweep.plan.cell_checks import check_cells
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.final_runs import ComparedRuns, compared_runs, finished_runs
from gptx.sweep.search.space import Space
from gptx.sweep.state.folder import Sweep, SweepKind, sweeps
from gptx.sweep.state.records import TrialEnded
from gptx.terminal import echo, shell_words

if TYPE_CHECKING:  # optuna is imported only by a command that searches
    import optuna

    from gptx.sweep.search.optuna_study import SearchOptions

_STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}


def show_search(options: "SearchOptions", space: Space, sweep: Sweep, study: str) -> None:
    """Print what the search will try, and whether the study has other searches."""
    goals = [f"{way.name.lower()} {m}" for m, way in zip(options.metrics, options.directions, strict=True)]
    by = f"sampled by {options.sampler}" + (f", pruned by {options.pruner}" if options.pruned_by else "")
    echo(f"search: {options.n_trials} trials to {' and '.join(goals)}, {by}, in {sweep.path}")
    echo(space)
    others = [] if sweep.path.exists() else [other for other in sweeps(sweep.outputs) if other.plan.study == study]
    if names := [other.name for other in others if other.plan.kind is SweepKind.OPTUNA]:
        echo(f"this search is new, because its space or its metrics differ; study={study} also has {', '.join(names)}")


def show_estimate(trials: int, examples: Sequence[Cell], launcher: Launcher, options: DictConfig) -> None:
    """Print the numbers of finished and remaining trials, and estimates of their memory and time from examples."""
    from gptx.runs.units import memory_text
    from gptx.sweep.plan.memory_fit import check_memory
    from gptx.sweep.plan.preview import rejections, summary
    from gptx.sweep.plan.preview_table import PreviewStatus, duration
    from gptx.sweep.plan.time_estimate import TimeEstimator

    done = len({trial.number for trial in launcher.sweep.records_of(TrialEnded)})
    left, times, seconds = max(0, trials - done), [], 0.0
    if left:
        check_cells(examples, launcher.machine)
        limit = check_memory(examples, launcher.slots, launcher.on_this_machine)
        launcher.slots = limit.jobs
        able = [cell for cell in examples if not cell.rejection and not cell.done]
        estimator = TimeEstimator(Path(options.paths.outputs), launcher.slots, launcher.on_this_machine)
        times = [(time.seconds, time.source) for time in map(estimator.estimate, able) if time.seconds]
        seconds = mean(time for time, _ in times) * left / min(left, launcher.slots) if times else 0.0
        memory = sorted(cell.memory_bytes for cell in able if cell.memory_bytes is not None)
        needs = {"needs": list(map(memory_text, memory)), "takes": [duration(time) for time, _ in sorted(times)]}
        ranges = [f"{verb} {' to '.join(dict.fromkeys([all_[0], all_[-1]]))}" for verb, all_ in needs.items() if all_]
        need = f"a trial {' and '.join(ranges)} (estimated at the ends of each range)" if ranges else ""
        for line in filter(None, (*rejections(examples), limit.note, need)):
            echo(line)
    statuses = [PreviewStatus.FINISHED] * done + [PreviewStatus.TO_RUN] * left
    echo(summary("trial", statuses, launcher.slots, seconds, [source for _, source in times]))


def close_search(
    study: "optuna.Study",
    options: "SearchOptions",
    sweep: Sweep,
    config_dirs: Sequence[str],
    stage: FinalStage | None,
) -> int:
    """Print the comparison of the finished runs, the best trials, and why others were rejected or failed; returns the
    exit code.

    Args:
        stage: the runs of the best trials with other seeds; None if there are none.
    """
    from gptx.sweep.search.optuna_study import FAILURE, RUN, TITLE, importances, rejection

    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if finished:
        echo()
        runs = {sweep.outputs / trial.user_attrs[RUN] for trial in finished}
        final = finished_runs((cell for cell in sweep.plan.cells if cell.is_final), sweep.outputs)
        every = sorted({*runs, *final})
        show_comparison(sweep, compared_runs(sweep, every) if stage else ComparedRuns(every))
        _show_best(study, options, config_dirs)
    if found := importances(study):
        figures = ", ".join(f"{key} {value:.2f}" for key, value in found.items())
        echo(f"\nimportance of each key, estimated from {len(finished)} trials: {figures}")
    rejected = {trial.user_attrs[TITLE]: why for trial in trials if (why := rejection(trial))}
    counts = Counter(trial.state.name for trial in trials if not rejection(trial))
    parts = [f"{counts[state]} {status}" for state, status in _STATES.items() if counts[state]]
    echo(f"\ntrials: {', '.join([*parts, *([f'{len(rejected)} rejected'] if rejected else [])])}")
    list_reasons("rejected", rejected, len(trials))
    failed = {t.user_attrs[TITLE]: t.user_attrs[FAILURE] for t in trials if t.state.name == "FAIL"}
    list_reasons("failed", failed, len(trials))
    if stage:
        list_reasons("rejected", {c.title: c.rejection for c in stage.cells if c.rejection}, len(stage.cells))
        list_reasons("failed", stage.failed, len(stage.cells))
    return 1 if failed or (stage and stage.failed) else 0


def _show_best(study: "optuna.Study", options: "SearchOptions", config_dirs: Sequence[str]) -> None:
    """The best trial, or those that no other trial beats in all metrics, each with its command."""
    from gptx.sweep.search.optuna_study import OVERRIDES, TITLE
    from gptx.sweep.search.search_final import best_trials

    best = best_trials(study)
    by = " on the selection half" if any(f"{metric}_select" in BY_KEY for metric in options.metrics) else ""
    if len(options.metrics) == 1:
        echo(f"\nbest trial{by}:")
    else:
        echo(f"\n{len(best)} best trials{by} (no other is better in both {' and '.join(options.metrics)}):")
    for trial in best:
        values = ", ".join(f"{m} {value:,.6g}" for m, value in zip(options.metrics, trial.values, strict=True))
        echo(f"  {trial.user_attrs[TITLE]}: {values}")
        echo(f"    {shell_words(['python', '-m', 'gptx.run', *config_dirs, *trial.user_attrs[OVERRIDES]])}")
