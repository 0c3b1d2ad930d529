"""The overrides of a multirun command line: which keys have several values, and which combinations they make."""

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from gptx.config.composition_errors import explain
from gptx.config.overrides import about_sweeps, key_of
from gptx.errors import ConfigError


def check_given_once(parsed: Sequence[Override]) -> None:
    """Check that a key with several values may have several values, and is given only once.

    Raises:
        ConfigError: the key may not be used, or it is given twice.
    """
    given: dict[str, Override] = {}
    for one in parsed:
        override, key = str(one.input_line), key_of(str(one.input_line))
        first = given.setdefault(key, one)
        if one.is_sweep_override() and key == "experiment":
            raise ConfigError(f"{override}: a study is a sweep by itself; give one study")
        if one.is_sweep_override() and (about_sweeps(override) or key == "paths.outputs"):
            raise ConfigError(f"{override}: {key} is an option of the sweep as a whole; give it one value")
        if first is not one and (one.is_sweep_override() or first.is_sweep_override()):
            raise ConfigError(f"{first.input_line} and {override}: only the last would count; give {key} once")


def combinations(parsed: Sequence[Override]) -> list[list[str]]:
    """Every combination of a grid, as the overrides of a single run."""
    by_key = {one.get_key_element(): single_values(one) for one in parsed}
    return [list(overrides) for overrides in itertools.product(*by_key.values())]


def single_values(one: Override) -> list[str]:
    """An override of a grid as one override for each of its values.

    Raises:
        ConfigError: the values of the override cannot be listed.
    """
    key, override = one.get_key_element(), one.input_line
    if not one.is_sweep_override():
        return [f"{key}={one.get_value_element_as_str()}"]
    if not one.is_discrete_sweep():
        raise ConfigError(f"{override} needs hydra/sweeper=optuna; a grid takes values, e.g. optim.lr=1e-3,3e-3")
    try:
        overrides = [f"{key}={value}" for value in one.sweep_string_iterator()]
    except Exception as error:  # Hydra raises all kinds of errors for a malformed sweep
        raise ConfigError(f"{override}: {explain(error)}") from error
    if not overrides:
        raise ConfigError(f"{override} has no values: its glob matches no option, or its range is empty")
    return overrides
