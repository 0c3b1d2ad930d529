"""Build the object that a group's ``_target_`` names. Does not import torch, so that a mistake is reported quickly."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

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
        return instantiate(cfg, *args)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ImportError) or _is_wrong_call(cause):
            where = str(cfg._get_full_key(None))
            reason = " ".join(str(cause).split())
            raise ConfigError(f"{where}._target_={cfg.get('_target_')}: {reason}") from None
        if cause is not None:
            raise cause from None
        raise


def _is_wrong_call(error: BaseException | None) -> bool:
    """Whether the arguments did not match the signature: then Hydra's frame is the last, no line of the class ran."""
    frame = error.__traceback__ if isinstance(error, TypeError) else None
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith("hydra.")
