"""Compose configs from Python with the options of a folder of the user, as ``--config-dir`` does in a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra

from gptx.config.overrides import conf_dir
from gptx.config.own_modules import make_importable
from gptx.errors import ConfigError


@contextmanager
def own_options(folder: Path | None, argument: str = "--config-dir") -> Iterator[None]:
    """Inside the block, `gptx.config.compose.compose` also finds the options of a folder. None: gptx's only.
    Modules in the folder can be imported from then on.

    Args:
        argument: the name of the argument with the folder, for messages.

    Raises:
        ConfigError: the folder does not exist.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{argument} {folder}: this folder does not exist; expected one with AXIS/OPTION.yaml")
    make_importable([folder] if folder else [])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):  # restores Hydra's state at the end of the block
        if folder is not None:
            path = create_config_search_path(str(conf_dir()))
            path.prepend("command-line", f"file://{folder.absolute()}", anchor=SearchPathQuery(provider="schema"))
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("app", path)
        yield
