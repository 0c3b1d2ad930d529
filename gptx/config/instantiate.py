"""Hydra's `_target_`s become parts. No torch here: a finished run and a typo are answered without it."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from gptx.errors import ConfigError


def part(cfg: DictConfig, *args: Any) -> Any:
    """One part from its YAML: positional arguments are given here, keyword arguments are the YAML's keys.

    Raises:
        ConfigError: there is no such part, or its constructor does not take the keys of its YAML.
        Exception: what the constructor raised (a `GptxError` if it refuses), which Hydra would wrap in its own.
    """
    try:
        return instantiate(cfg, *args)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ImportError) or _is_of_the_call(cause):
            where = str(cfg._get_full_key(None))
            reason = " ".join(str(cause).split())
            raise ConfigError(f"{where}._target_={cfg.get('_target_')}: {reason}") from None
        if cause is not None:
            raise cause from None
        raise


def _is_of_the_call(error: BaseException | None) -> bool:
    """Whether the arguments did not fit: then Hydra's is the last frame, and no line of the part has run."""
    frame = error.__traceback__ if isinstance(error, TypeError) else None
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith("hydra.")
