"""Compose a config from the YAML files and overrides, and check it. Does not import torch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from gptx.config.check_ranges import check_ranges
from gptx.config.compositions import Compositions
from gptx.config.expectations import check_expectations
from gptx.config.overrides import check_choices, conf_dir
from gptx.config.parsing import readable
from gptx.config.plain_dict import PlainConfig


def compose(overrides: Sequence[str] = (), compositions: Compositions | None = None) -> DictConfig:
    """The checked config of a run, e.g. ``compose(["attention=gqa", "trainer.max_steps=100"])``.

    Args:
        compositions: sets of options that are composed already. New ones are added, so that of many configs with the
            same options these are composed once.

    Raises:
        ConfigError: an unknown option or key, or a value of the wrong type or out of range; one line that says what
            would work.
    """
    return OmegaConf.create(compose_plain(overrides, compositions))


def compose_plain(overrides: Sequence[str] = (), compositions: Compositions | None = None) -> PlainConfig:
    """The config of `compose` as nested dicts, which must not be changed: configs with equal groups share them."""
    given = [readable(override) for override in overrides]
    compositions = Compositions() if compositions is None else compositions
    with initialised():
        check_choices(given)
        plain = compositions.compose(given)
    check_ranges(plain)
    check_expectations(plain)
    return plain


@contextmanager
def initialised() -> Iterator[None]:
    """Make Hydra find gptx's YAML files; inside the command Hydra is initialised already, with ``--config-dir``."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
