"""The config that a run folder has saved, as today's code reads it. Does not import torch."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from gptx.config.axes import result_axes
from gptx.config.class_ids import current_target, declaration
from gptx.config.identity import ADDED_KEYS
from gptx.config.plain_dict import PlainConfig
from gptx.config.saved_schema import check_saved
from gptx.config.trust import check_trust
from gptx.errors import ConfigError, GptxError, reason
from gptx.regular_files import read_text, refuse_links

CONFIG = "config.yaml"
_OF_VALUES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
LARGEST = 10**6  # bytes; a config has about 4000


def load_config(run_dir: Path, trust: Iterable[str] = ()) -> DictConfig:
    """The config of a run, from its ``config.yaml``, which is data: nothing that it names is imported here.

    In the config of a run that an earlier version made, targets of classes that have moved become today's, and keys
    that were added since get the values that reproduce what the run computed.

    Args:
        trust: modules outside gptx whose classes it may name, see `gptx.config.trust`.

    Raises:
        ConfigError: the file is damaged, names a class that is neither an option of gptx nor trusted, or the run folder
            contains a symbolic link.
    """
    check_run_dir(run_dir)
    refuse_links(run_dir)
    plain = _read(run_dir / CONFIG)
    check_trust(plain, trust, run_dir / CONFIG)
    for group in plain.values():
        if isinstance(group, dict) and "_target_" in group:
            group["_target_"] = current_target(group["_target_"])
            built_in = declaration(group["_target_"])
            for key, value in built_in.reproducing(group).items() if built_in else ():
                group.setdefault(key, value)
    for key, value in ADDED_KEYS.items():
        group, _, name = key.rpartition(".")
        holder = plain.setdefault(group, {}) if group else plain
        if isinstance(holder, dict):
            holder.setdefault(name, value)
    try:
        cfg: DictConfig = OmegaConf.create(check_saved(plain))
    except ConfigError as error:
        raise _no_config(run_dir / CONFIG, error) from None
    return cfg


def check_run_dir(run_dir: Path) -> None:
    """Check that a path is the folder of a run.

    Raises:
        ConfigError: it is not.
    """
    expected = "expected the folder of a run, such as outputs/STUDY/RUN"
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir} {'is a file' if run_dir.exists() else 'does not exist'}; {expected}")
    if not (run_dir / CONFIG).exists():
        raise ConfigError(f"{run_dir} is not a run folder: it has no {CONFIG}; {expected}")


@contextmanager
def config_errors(run_dir: Path) -> Iterator[None]:
    """Within the block, where the parts that the run's config names are made from its values, an error is one line.

    Raises:
        ConfigError: instead of an error that a wrong value causes.
    """
    try:
        yield
    except GptxError:
        raise
    except (*_OF_VALUES, OmegaConfBaseException) as error:
        raise ConfigError(f"{run_dir / CONFIG}: the parts cannot be made from it: {reason(error)[:300]}") from error


def _no_config(path: Path, reason: object) -> ConfigError:
    return ConfigError(f"{path} is not a config of gptx: {' '.join(str(reason).split())}")


def _read(path: Path) -> PlainConfig:
    """The content of a config.yaml as nested dicts, lists and scalars."""
    try:
        plain = yaml.load(read_text(path, LARGEST), _NoAliases)  # type: ignore[no-untyped-call]  # a SafeLoader
        if not isinstance(plain, dict):
            raise ValueError(f"expected a group of keys, found {type(plain).__name__}")
        _check_plain(plain, "")
        if missing := [axis for axis in result_axes() if not isinstance(plain.get(axis), dict)]:
            axis = missing[0]
            raise ValueError(
                f"{axis}={plain[axis]!r}: expected a group of keys" if axis in plain else f"it has no {axis}"
            )
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise _no_config(path, error) from None
    return plain


class _NoAliases(get_yaml_loader()):  # type: ignore[misc]
    """OmegaConf's own loader, which reads plain values only, without aliases: a few lines of them fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has a YAML alias")
        return super().compose_node(parent, index)


def _check_plain(value: Any, path: str) -> None:
    """Reject interpolations, which could read the environment, and values that are not plain.

    Raises:
        ValueError: names the key.
    """
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                raise ValueError(f"the key {key!r} of {path or 'the top level'} is not text")
            _check_plain(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, str) and "${" in value:
        raise ValueError(f"{path}={value!r} is an interpolation, which a saved config does not have")
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{path} is a {type(value).__name__}")
