"""The config that a run folder has saved, as today's code reads it. Does not import torch."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gptx.config.class_ids import declaration
from gptx.config.identity import ADDED_KEYS
from gptx.config.instantiate import groups_with_target, with_current_targets


def load_config(run_dir: Path) -> DictConfig:
    """The config of a run, from its ``config.yaml``.

    In the config of a run that an earlier version made, targets of classes that have moved become today's, and keys
    that were added since get the values that reproduce what the run computed.
    """
    cfg = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(cfg, DictConfig)
    cfg = with_current_targets(cfg)
    for group in groups_with_target(cfg):
        built_in = declaration(group._target_)
        for key, value in built_in.added_keys.items() if built_in else ():
            group.setdefault(key, value)
    for key, value in ADDED_KEYS.items():
        if OmegaConf.select(cfg, key) is None:
            OmegaConf.update(cfg, key, value, force_add=True)
    return cfg
