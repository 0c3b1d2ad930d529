"""Write the two files of an option of the user's own, copies of those in `gptx.templates`. Does not import torch."""

import keyword
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gptx.config.axes import model_axes
from gptx.config.overrides import conf_dir, did_you_mean
from gptx.config.own_modules import make_importable
from gptx.config.parsing import parsed
from gptx.errors import ConfigError

TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class NewOption:
    """The two files of a new option.

    Attributes:
        code, config: the Python file and the YAML file.
        has_proofs: whether `gptx prove` proves options of this axis: those of the model.
    """

    axis: str
    name: str
    code: Path
    config: Path
    has_proofs: bool


@cache
def template_axes() -> tuple[str, ...]:
    """The axes that have a template: all whose options are classes or functions."""
    return tuple(sorted(path.stem for path in TEMPLATES.glob("*.yaml")))


def write_option(axis: str, name: str, folder: Path) -> NewOption:
    """Write ``folder/NAME_AXIS.py`` and ``folder/AXIS/NAME.yaml``. Existing files are never replaced.

    Raises:
        ConfigError: an unknown axis, a name that is impossible or taken, or a file exists.
    """
    _check(axis, name, folder)
    module = f"{name}_{axis}"
    new = NewOption(axis, name, folder / f"{module}.py", folder / axis / f"{name}.yaml", axis in model_axes())
    for file in (new.code, new.config):
        if file.exists():
            raise ConfigError(f"{file} exists and is not replaced: choose another name, or remove it")
    code, config = (TEMPLATES / f"{axis}{suffix}" for suffix in (".py", ".yaml"))
    for source, target in ((code, new.code), (config, new.config)):
        text = _renamed(source.read_text(encoding="utf-8"), axis, name, module)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as opened:
            opened.write(text)
    return new


def _check(axis: str, name: str, folder: Path) -> None:
    if axis not in template_axes():
        known = template_axes()
        raise ConfigError(f"unknown axis {axis}.{did_you_mean(axis, known)} Expected one of: {', '.join(known)}")
    if keyword.iskeyword(name) or name == axis:
        raise ConfigError(f"{name!r} cannot be the name of an option here: choose another one, such as mine")
    override = parsed(f"{axis}={name}")
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or override is None or not isinstance(override.value(), str):
        raise ConfigError(f"{name!r} cannot be the name of an option: expected a-z, 0-9 and _, such as mine")
    if (conf_dir() / axis / f"{name}.yaml").exists():
        raise ConfigError(f"{axis}={name} is an option of gptx: choose another name")
    make_importable([folder])
    found = find_spec(f"{name}_{axis}")
    if found and found.origin and Path(found.origin).parent != folder.absolute():
        raise ConfigError(f"there is a Python module {name}_{axis}, in {found.origin}: choose another name")


def _renamed(text: str, axis: str, name: str, module: str) -> str:
    """The text of a template, with the names of its module, its class or function, and the option."""
    words = {f"{axis.title()}Template": name.title().replace("_", ""), f"{axis}_template": name}
    words |= {f"gptx.templates.{axis}": module, '"mine"': f'"{name}"'}
    for old, new in words.items():
        text = text.replace(old, new)
    return text
