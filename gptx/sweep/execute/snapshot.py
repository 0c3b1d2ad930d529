"""The code and the YAML that a sweep's jobs run: a copy, so that what is edited later touches no job in the queue."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from gptx.config.overrides import conf_dir
from gptx.runs.codec import to_json
from gptx.runs.files import write_json
from gptx.runs.provenance import COMMIT, git

_PACKAGE = Path(__file__).parents[2]


def freeze(folder: Path, words: Sequence[str], modules: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """Copy gptx, its YAML, the --config-dir among ``words``, and the user's own modules.

    Returns:
        ``folder/<hash>``, which the same code always gets, and where a --config-dir of the words lies in it.
    """
    part = folder / f".part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    for source in (_PACKAGE, *([] if conf_dir().is_relative_to(_PACKAGE) else [conf_dir()])):
        _copy(source, part / source.name)
    for name, module in modules.items():
        _copy(Path(module), part.joinpath(*name.split(".")[:-1], Path(module).name))
    for plugin in (_PACKAGE.parent / "hydra_plugins").glob("gptx_*.py"):
        _copy(plugin, part / "hydra_plugins" / plugin.name)
    own = dict.fromkeys(value for flag, value in pairwise(words) if flag == "--config-dir")
    for number, given in enumerate(own):
        _copy(Path(given), part / f"config-{number}")
    write_json(part / COMMIT, to_json(git()))
    place = folder / _hash(part)
    if place.exists():
        shutil.rmtree(part)
    else:
        part.rename(place)
    return place, {given: str(place / f"config-{number}") for number, given in enumerate(own)}


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
