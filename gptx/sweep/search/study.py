"""optuna's side of a search: where it is stored, who proposes, who prunes.

Only the command that holds the sweep writes the store, a log of JSON lines that optuna's own tools can read.
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

from gptx.compare.table import CURVES, METRICS
from gptx.config.overrides import did_you_mean
from gptx.errors import ConfigError
from gptx.runs.json_log import drop_torn_line

STORE = "optuna.jsonl"
SAMPLERS, PRUNERS = ("tpe", "nsga2", "random"), ("none", "median", "asha")
_CURVED = [metric for metric, curve in CURVES.items() if curve.startswith("val/")]


@dataclass(frozen=True)
class Keys:
    """Those of conf/hydra/sweeper/optuna.yaml."""

    n_trials: int
    metrics: tuple[str, ...]
    sampler: str
    startup: int
    seed: int
    pruner: str
    warmup: int

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: one line.
        """
        least = {"n_trials": 1, "startup": 2 if self.sampler == "nsga2" else 1, "seed": 0, "warmup": 0}
        for key, number in least.items():
            if getattr(self, key) < number:
                raise ConfigError(f"hydra.sweeper.{key}={getattr(self, key)}: expected at least {number}")
        known = [metric.key for metric in METRICS if metric.best]
        _choose("metrics", self.metrics, known)
        _choose("sampler", [self.sampler], SAMPLERS)
        _choose("pruner", [self.pruner], PRUNERS)
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(f"hydra.sweeper.metrics={list(self.metrics)}: expected one or more, each once")
        self._check_pruner()

    def _check_pruner(self) -> None:
        given = f"hydra.sweeper.pruner={self.pruner}"
        if self.pruner == "none" and self.warmup:
            raise ConfigError(f"hydra.sweeper.warmup={self.warmup} is of a pruner, and {given}: median would do")
        if self.pruner != "none" and (len(self.metrics) > 1 or self.metrics[0] not in _CURVED):
            raise ConfigError(
                f"{given} stops runs by one validation curve, given metrics={list(self.metrics)}: metrics=[val_loss] "
                f"(or one of {', '.join(_CURVED[1:])}), or pruner=none"
            )

    @property
    def directions(self) -> list[StudyDirection]:
        """Of each metric."""
        best = {metric.key: metric.best for metric in METRICS}
        return [StudyDirection.MAXIMIZE if best[key] is max else StudyDirection.MINIMIZE for key in self.metrics]

    @property
    def curve(self) -> str:
        """What of a run's journal is compared while it runs; "": nothing."""
        return CURVES[self.metrics[0]] if self.pruner != "none" else ""


def _choose(key: str, given: Sequence[str], known: Sequence[str]) -> None:
    for one in given:
        if one not in known:
            hint = did_you_mean(one, known)
            raise ConfigError(f"hydra.sweeper.{key}={one}: expected one of {', '.join(known)}.{hint}")


class _Held(JournalFileSymlinkLock):
    """None, for the sweep's holds: one of its own, left behind by a kill, would keep the next command for 30 s."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def open_study(folder: Path, keys: Keys, pruner: BasePruner) -> optuna.Study:
    """New, or as a command left it, however that ended. For who holds the sweep."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drop_torn_line(folder / STORE)
    path = str(folder / STORE)
    storage = JournalStorage(JournalFileBackend(path, _Held(path)))
    return optuna.create_study(
        storage=storage, study_name=folder.name, directions=keys.directions, load_if_exists=True, pruner=pruner
    )


def sampler(keys: Keys, number: int) -> BaseSampler:
    """For the trial of that number: seeded anew, so that a search that goes on does not repeat itself."""
    seed = int(SeedSequence([keys.seed, number]).generate_state(1)[0])
    if keys.sampler == "random":
        return RandomSampler(seed)
    if keys.sampler == "nsga2":
        return NSGAIISampler(population_size=keys.startup, seed=seed)
    return TPESampler(n_startup_trials=keys.startup, seed=seed, constant_liar=True)


def pruner(keys: Keys, every: int) -> BasePruner:
    """``every``: steps between two validations."""
    if keys.pruner == "median":
        return MedianPruner(n_startup_trials=keys.startup, n_warmup_steps=keys.warmup)
    if keys.pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=max(keys.warmup, every), reduction_factor=3)
    return NopPruner()


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each key decides whether a trial is among the best (PED-ANOVA, Watanabe et al. 2023); {}: too early."""
    import warnings

    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))) < 10:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few trials make it uncertain is said where it is shown
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: value for key, value in found.items() if math.isfinite(value)}
