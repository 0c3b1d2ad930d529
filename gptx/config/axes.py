"""The axes of a run: one table, read from the defaults list of ``conf/config.yaml``. Does not import torch.

An axis is a group of options such as ``attention``; its options are the YAML files of the folder ``conf/attention``.
"""

from dataclasses import dataclass
from functools import cache

from omegaconf import DictConfig, OmegaConf

from gptx.config.overrides import conf_dir

_IN_RUN_NAME = ("attention", "pos", "window", "strategy")
_INTERACTING = ("attention", "pos", "window")
_MODEL = (*_INTERACTING, "ffn", "norm", "placement", "kernel")
_NOT_RESULT = ("tracking", "match", "experiment")


@dataclass(frozen=True)
class Axis:
    """One group of options.

    Attributes:
        name: name of the group, e.g. ``attention``.
        default: option that is used when none is given, e.g. ``mha``.
        in_run_name: whether a run's name, and the first columns of every table, show its option.
        is_model: whether its options are classes of the model.
        interacts: whether its options can reject options of the other interacting axes.
        decides_result: False for tracking, match and experiment, which do not change what a run computes.
    """

    name: str
    default: str
    in_run_name: bool
    is_model: bool
    interacts: bool
    decides_result: bool


@cache
def axes() -> tuple[Axis, ...]:
    """All axes, in the order of the defaults list."""
    config = OmegaConf.load(conf_dir() / "config.yaml")
    assert isinstance(config, DictConfig)
    entries = [next(iter(entry.items())) for entry in config.defaults if isinstance(entry, DictConfig)]
    return tuple(_axis(str(name), str(option)) for name, option in entries if not str(name).startswith("override "))


def _axis(name: str, default: str) -> Axis:
    return Axis(name, default, name in _IN_RUN_NAME, name in _MODEL, name in _INTERACTING, name not in _NOT_RESULT)


def run_name_axes() -> tuple[str, ...]:
    """``("attention", "pos", "window", "strategy")``: the axes that a run's name shows."""
    return tuple(axis.name for axis in axes() if axis.in_run_name)


def model_axes() -> tuple[str, ...]:
    """The axes whose options are classes of the model: attention, pos, window, ffn, norm, placement, kernel."""
    return tuple(axis.name for axis in axes() if axis.is_model)


def interacting_axes() -> tuple[str, ...]:
    """``("attention", "pos", "window")``: the axes whose options can reject one another."""
    return tuple(axis.name for axis in axes() if axis.interacts)


def result_axes() -> tuple[str, ...]:
    """The axes that decide what a run computes: all but tracking, match and experiment."""
    return tuple(axis.name for axis in axes() if axis.decides_result)


def own_axes(cfg: DictConfig) -> tuple[str, ...]:
    """The model's axes whose class is the user's own, not one of gptx."""
    return tuple(axis for axis in model_axes() if not str(cfg[axis].get("_target_")).startswith("gptx."))
