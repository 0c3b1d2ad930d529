"""A config that cannot be changed, because changes would not be checked. Does not import torch."""

from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from gptx.config.plain_dict import PlainConfig, key_names, plain_dict
from gptx.config.unknown_keys import unknown_key
from gptx.errors import ConfigError


class LockedConfig(DictConfig):
    """A config, or a group of one, that is read-only. Assigning to a key raises `ConfigError`."""

    def __setattr__(self, key: str, value: Any) -> None:
        if key.startswith("_"):  # OmegaConf's own attributes
            super().__setattr__(key, value)
        else:
            self._refuse(key, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse(str(key), value)

    def _refuse(self, key: str, value: Any) -> NoReturn:
        path = str(self._get_full_key(key))
        if key not in self:
            root = self._get_root()
            assert isinstance(root, DictConfig)
            raise ConfigError(unknown_key(path, key_names(plain_dict(root))))
        raise ConfigError(
            f"{path}={value!r} would not be checked, so a composed config cannot be changed: give the override to "
            f'gptx.compose, as in gptx.compose(["{path}=..."])'
        )


def locked(plain: PlainConfig) -> DictConfig:
    """The config of nested dicts, read-only."""
    config = OmegaConf.create(plain)
    _lock(config)
    OmegaConf.set_readonly(config, True)
    return config


def _lock(config: DictConfig) -> None:
    for key in config:
        if isinstance(group := config._get_node(key), DictConfig):
            _lock(group)
    object.__setattr__(config, "__class__", LockedConfig)
