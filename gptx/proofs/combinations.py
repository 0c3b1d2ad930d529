"""Which combinations of variants prove an option: with every option of the axes that it interacts with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from gptx.config.axes import interacting_axes, model_axes
from gptx.config.overrides import conf_dir, key_of, options
from gptx.errors import ConfigError
from gptx.proofs.full import Failure, failures
from gptx.proofs.small_model import small_model


@dataclass(frozen=True)
class Proven:
    """The outcome for one combination.

    Attributes:
        name: its options, e.g. ``attention=mine pos=rope window=full``.
        rejection: why its variants reject one another; empty: they do not.
        failures: the properties that its model lacks.
    """

    name: str
    rejection: str = ""
    failures: tuple[Failure, ...] = ()


def combinations(cfg: DictConfig, overrides: Sequence[str]) -> list[DictConfig]:
    """The configs that prove the options which the overrides choose.

    Without a chosen axis, this is ``cfg`` alone. Otherwise all options of the other axes of attention, pos, window and
    kernel, or of ffn, norm and placement, are exchanged: any option of the one occurs, beside the options of the other
    in turn. The kernel is not exchanged: one proof compares all of them.
    """
    chosen = {key_of(override) for override in overrides}
    found, first = [cfg], {*interacting_axes(), "kernel"}
    for group in (first, set(model_axes()) - first):
        free = [axis for axis in model_axes() if axis in group - chosen - {"kernel"}]
        if group & chosen and free:
            found += [_with_choice(cfg, choice) for choice in _in_turn(free)]
    return found


def _in_turn(axes: Sequence[str]) -> Iterator[dict[str, str]]:
    """Choices in which every option of each axis occurs, as few as there are options of the largest axis."""
    each = {axis: options(axis) for axis in axes}
    for number in range(max(map(len, each.values()))):
        yield {axis: names[number % len(names)] for axis, names in each.items()}


def _with_choice(cfg: DictConfig, choice: dict[str, str]) -> DictConfig:
    """A copy of a config with other options of gptx, as their YAML files define them."""
    copy = cfg.copy()
    for axis, option in choice.items():
        copy[axis], copy.variant[axis] = OmegaConf.load(conf_dir() / axis / f"{option}.yaml"), option
    return copy


def proven(cfg: DictConfig) -> Proven:
    """Check every property of one combination in a small model."""
    name = " ".join(f"{axis}={cfg.variant[axis]}" for axis in model_axes() if axis != "kernel")
    try:
        model = small_model(cfg)
    except ConfigError as error:
        return Proven(name, rejection=str(error))
    return Proven(name, failures=tuple(failures(model)))
