"""Check the cells of a sweep with `preflight`, in isolated processes, each model once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from gptx.config import trust
from gptx.config.plain_dict import PlainConfig
from gptx.data import from_config
from gptx.errors import NotTokenised, reason
from gptx.runs.preflight_facts import RunFacts
from gptx.runs.provenance import own_modules
from gptx.sweep.execute.isolated import map_isolated
from gptx.sweep.plan.cells import Cell
from gptx.training.model_checks import CheckedModels, model_key
from gptx.training.preflight import preflight

if TYPE_CHECKING:
    from gptx.hardware.device import Machine

TOGETHER = 100  # arms of one model that a process checks one after another


@dataclass(frozen=True)
class _Checked:
    """The result of checking a config: its facts, or the reason why it is rejected. ``tokens_missing``: the text must
    be tokenised first."""

    facts: RunFacts | None = None
    modules: dict[str, str] = field(default_factory=dict)
    rejection: str = ""
    tokens_missing: bool = False


@dataclass(frozen=True)
class _Work:
    """Configs that have the same model, and the machine that the runs are for."""

    configs: list[PlainConfig]
    machine: "Machine | None"


def check_cells(cells: Iterable[Cell], machine: "Machine | None") -> None:
    """Check every cell with `preflight`, once per arm. Texts that are not tokenised are tokenised here.

    Args:
        machine: the machine that the runs are for, if it is not this one.
    """
    arms: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.rejection and not cell.done:
            arms.setdefault(cell.arm, []).append(cell)
    waiting = _check_arms(list(arms.values()), machine)
    for arm in waiting:
        rejection = _tokenise(OmegaConf.create(arm[0].config))
        for cell in arm:
            cell.rejection = rejection
    _check_arms([arm for arm in waiting if not arm[0].rejection], machine)


def _check_arms(arms: Sequence[list[Cell]], machine: "Machine | None") -> list[list[Cell]]:
    """Store facts or rejection in all cells of each arm; returns the arms whose text must be tokenised first."""
    groups = list(_groups(arms))
    found = _check_groups([[arm[0].config for arm in group] for group in groups], machine)
    waiting = []
    for group, results in zip(groups, found, strict=True):
        for arm, checked in zip(group, results, strict=True):
            for cell in arm:
                cell.rejection, cell.facts, cell.modules = checked.rejection, checked.facts, checked.modules
            if checked.tokens_missing:
                waiting.append(arm)
    return waiting


def _groups(arms: Sequence[list[Cell]]) -> Iterator[list[list[Cell]]]:
    """Arms that have the same model and the same modules of the user, at most `TOGETHER` of them."""
    alike: dict[tuple[str, ...], list[list[Cell]]] = {}
    for arm in arms:
        config = arm[0].config
        alike.setdefault((model_key(config), *trust.own_modules(config)), []).append(arm)
    for group in alike.values():
        for start in range(0, len(group), TOGETHER):
            yield group[start : start + TOGETHER]


def _check_groups(groups: Sequence[list[PlainConfig]], machine: "Machine | None") -> list[list[_Checked]]:
    """The results of each group. If the process of a group dies, its configs are checked one by one."""
    found = map_isolated(_check, [_Work(group, machine) for group in groups], _failed, key=_own)
    for group, results in zip(groups, found, strict=True):
        if results and results[0].rejection and len(results) < len(group):
            alone = [_Work([config], machine) for config in group]
            results[:] = [one for [one] in map_isolated(_check, alone, _failed, key=_own)]
    return found


def _own(work: _Work) -> list[str]:
    """The user's modules that the configs name."""
    return trust.own_modules(work.configs[0])


def _failed(why: str) -> list[_Checked]:
    return [_Checked(rejection=why)]


def _check(work: _Work) -> list[_Checked]:
    models: CheckedModels = {}
    return [_check_one(OmegaConf.create(config), work.machine, models) for config in work.configs]


def _check_one(cfg: DictConfig, machine: "Machine | None", models: CheckedModels) -> _Checked:
    try:
        facts = preflight(cfg, machine, make=False, models=models).facts
    except NotTokenised:
        return _Checked(tokens_missing=True)
    except (Exception, SystemExit) as error:
        return _Checked(rejection=reason(error))
    return _Checked(facts, own_modules())


def _tokenise(cfg: DictConfig) -> str:
    """Tokenise a config's text in this process, with a progress bar, because it may take hours. Returns why it failed;
    empty on success."""
    try:
        from_config.tokens_of(cfg, quiet=False)
    except (Exception, SystemExit) as error:
        return reason(error)
    return ""
