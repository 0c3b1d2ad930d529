"""Build the object that a group's ``_target_`` names. Does not import torch, so that a mistake is reported quickly."""

from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, read_write

from gptx.config.class_ids import current_target
from gptx.errors import ConfigError


def part(cfg: DictConfig, *args: Any) -> Any:
    """The object of a group, such as ``cfg.attention``.

    Args:
        args: positional arguments of the constructor; the group's keys are its keyword arguments.

    Raises:
        ConfigError: the class does not exist, or its constructor does not accept the keys.
        Exception: an exception of the constructor, not wrapped in Hydra's own exception.
    """
    try:
        return instantiate(with_current_targets(cfg), *args)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, ImportError) or _is_wrong_call(cause):  # None: a target that is no class
            where = str(cfg._get_full_key(None))
            reason = " ".join(str(cause or error).split())
            raise ConfigError(f"{where}._target_={cfg.get('_target_')}: {reason}") from None
        raise cause from None


def with_current_targets(cfg: DictConfig) -> DictConfig:
    """A copy of a config in which the targets of classes that have moved are today's, in nested groups too."""
    copy = cfg.copy()
    for group in groups_with_target(copy):
        with read_write(group):
            group._target_ = current_target(group._target_)
    return copy


def groups_with_target(cfg: DictConfig) -> Iterator[DictConfig]:
    """The config itself and all nested groups, where they have a ``_target_``."""
    if "_target_" in cfg:
        yield cfg
    for group in cfg.values():
        if isinstance(group, DictConfig):
            yield from groups_with_target(group)


def _is_wrong_call(error: BaseException | None) -> bool:
    """Whether the arguments did not match the signature: then Hydra's frame is the last, no line of the class ran."""
    frame = error.__traceback__ if isinstance(error, TypeError) else None
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith("hydra.")
