"""A copy of the code and the YAML for the jobs of a sweep, so that later edits do not affect queued jobs."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gptx.config.overrides import conf_dir
from gptx.runs.atomic_files import write_json
from gptx.runs.json_codec import to_json
from gptx.runs.provenance import COMMIT, git

_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class CodeCopy:
    """``path``: the copy; ``config_dirs``: where each --config-dir of the command line is in it."""

    path: Path
    config_dirs: Mapping[str, str]


def copy_code(folder: Path, arguments: Sequence[str], modules: Mapping[str, str]) -> CodeCopy:
    """Copy gptx, its YAML, the --config-dir among the arguments, and the user's own modules.

    Args:
        folder: the copy is ``folder/<hash of its content>``, so the same code is copied once.
        modules: paths of the user's modules, by name.
    """
    partial = folder / f".part-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    for source in (_PACKAGE, *([] if conf_dir().is_relative_to(_PACKAGE) else [conf_dir()])):
        _copy(source, partial / source.name)
    for name, module in modules.items():
        _copy(Path(module), partial.joinpath(*name.split(".")[:-1], Path(module).name))
    for plugin in (_PACKAGE.parent / "hydra_plugins").glob("gptx_*.py"):
        _copy(plugin, partial / "hydra_plugins" / plugin.name)
    config_dirs = dict.fromkeys(value for flag, value in pairwise(arguments) if flag == "--config-dir")
    for number, given in enumerate(config_dirs):
        _copy(Path(given), partial / f"config-{number}")
    write_json(partial / COMMIT, to_json(git()))
    path = folder / _hash(partial)
    if path.exists() and _hash(path) == path.name:
        shutil.rmtree(partial)
    else:  # somebody else may have written another content under this name
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    return CodeCopy(path, {given: str(path / f"config-{number}") for number, given in enumerate(config_dirs)})


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    else:
        shutil.copy2(source, target)


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:10]
