"""The optuna study of a search: where it is stored, and its samplers and pruners.

Only the command that holds the sweep's lock writes the store, a file of JSON lines that optuna's own tools can read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from numpy.random import SeedSequence
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from gptx.config.overrides import did_you_mean
from gptx.errors import ConfigError
from gptx.regular_files import refuse_link
from gptx.runs.json_log import drop_torn_line
from gptx.runs.metrics import BY_KEY, CURVES, METRICS

STORE = "optuna.jsonl"
SAMPLERS, PRUNERS = ("tpe", "nsga2", "random"), ("none", "median", "asha")
MIN_TRIALS = 10  # before importances are shown
_KNOWN = [metric.key for metric in METRICS if not metric.view]
_CURVED = [metric for metric in _KNOWN if CURVES.get(metric, "").startswith("val/")]

# Names of the attributes that are stored with each trial.
TITLE, OVERRIDES, RUN = "title", "words", "run"
REJECTION = "refused"  # why the point cannot run
FAILURE = "reason"  # why its run failed


@dataclass(frozen=True)
class SearchOptions:
    """The keys of conf/hydra/sweeper/optuna.yaml."""

    n_trials: int
    metrics: tuple[str, ...]
    sampler: str
    startup: int
    seed: int
    pruner: str
    warmup: int

    def check(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is not possible.
        """
        least = {"n_trials": 1, "startup": 2 if self.sampler == "nsga2" else 1, "seed": 0, "warmup": 0}
        for key, number in least.items():
            if getattr(self, key) < number:
                raise ConfigError(f"hydra.sweeper.{key}={getattr(self, key)}: expected at least {number}")
        _check_choices("metrics", self.metrics, _KNOWN)
        _check_choices("sampler", [self.sampler], SAMPLERS)
        _check_choices("pruner", [self.pruner], PRUNERS)
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(f"hydra.sweeper.metrics={list(self.metrics)}: expected at least one, and none twice")
        self._check_pruner()

    def _check_pruner(self) -> None:
        given = f"hydra.sweeper.pruner={self.pruner}"
        if self.pruner == "none" and self.warmup:
            raise ConfigError(f"hydra.sweeper.warmup={self.warmup} needs a pruner, but {given}; use pruner=median")
        if self.pruner != "none" and (len(self.metrics) > 1 or self.metrics[0] not in _CURVED):
            raise ConfigError(
                f"{given} compares one validation metric during the runs, but metrics={list(self.metrics)}; use "
                f"metrics=[val_loss] (or {' or '.join(_CURVED[1:])}), or pruner=none"
            )

    @property
    def directions(self) -> list[StudyDirection]:
        """Whether each metric is to be maximised or minimised."""
        higher = [BY_KEY[key].higher_is_better for key in self.metrics]
        return [StudyDirection.MAXIMIZE if one else StudyDirection.MINIMIZE for one in higher]

    @property
    def pruned_by(self) -> str:
        """The metric that the pruner compares while runs train; empty without a pruner."""
        return self.metrics[0] if self.pruner != "none" else ""


def _check_choices(key: str, given: Sequence[str], known: Sequence[str]) -> None:
    for one in given:
        if one not in known:
            hint = did_you_mean(one, known)
            raise ConfigError(f"hydra.sweeper.{key}={one}: expected one of {', '.join(known)}.{hint}")


class _NoLock(JournalFileSymlinkLock):
    """No lock, because the sweep's own lock protects the store. A lock of optuna that a killed command did not release
    would block the next command for 30 s."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def open_study(folder: Path, options: SearchOptions, pruner: BasePruner) -> optuna.Study:
    """Open the study of an earlier command, even if that command was killed, or create one. The caller must hold the
    lock of the sweep."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    refuse_link(folder / STORE)
    drop_torn_line(folder / STORE)
    path = str(folder / STORE)
    storage = JournalStorage(JournalFileBackend(path, _NoLock(path)))
    return optuna.create_study(
        storage=storage, study_name=folder.name, directions=options.directions, load_if_exists=True, pruner=pruner
    )


def rejection(trial: FrozenTrial) -> str:
    """The reason why the point of a trial cannot run; empty if it can."""
    return str(trial.user_attrs.get(REJECTION, "")) if trial.state == TrialState.PRUNED else ""


def sampler_of(options: SearchOptions, number: int) -> BaseSampler:
    """The sampler for the trial of that number. Each has its own seed, so that a resumed search does not repeat
    its first trials."""
    seed = int(SeedSequence([options.seed, number]).generate_state(1)[0])
    if options.sampler == "random":
        return RandomSampler(seed)
    if options.sampler == "nsga2":
        return NSGAIISampler(population_size=options.startup, seed=seed)
    return TPESampler(n_startup_trials=options.startup, seed=seed, constant_liar=True)


def pruner_of(options: SearchOptions, eval_every: int) -> BasePruner:
    """The pruner. ``eval_every``: steps between two validations."""
    if options.pruner == "median":
        return MedianPruner(n_startup_trials=options.startup, n_warmup_steps=options.warmup)
    if options.pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=max(options.warmup, eval_every), reduction_factor=3)
    return NopPruner()


def importances(study: optuna.Study) -> dict[str, float]:
    """The importance of each key for being among the best trials (PED-ANOVA, Watanabe et al. 2023); empty while there
    are too few trials."""
    import warnings

    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < MIN_TRIALS:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report also shows that the value is uncertain
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: value for key, value in found.items() if math.isfinite(value)}
