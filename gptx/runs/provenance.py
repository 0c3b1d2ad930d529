"""Where a result comes from: the commit, the versions and the user's own code it was made with."""

import hashlib
import json
import platform
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from gptx.runs.codec import from_json
from gptx.runs.facts import GitState

_PACKAGE = Path(__file__).parents[1]
_PLUGINS = _PACKAGE.parent / "hydra_plugins"  # gptx's own
COMMIT = ".commit.json"  # beside a copy of the package: what it was copied from


def git() -> GitState:
    """The state of gptx's own checkout, or of the checkout that this package is a copy of."""
    root = _PACKAGE.parent

    def ask(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    if (root / COMMIT).exists():
        return from_json(GitState, json.loads((root / COMMIT).read_text()))
    if not (root / ".git").exists():
        return GitState()
    dirty = bool(ask("status", "--porcelain", "--untracked-files=no"))
    return GitState(commit=ask("rev-parse", "HEAD"), dirty=dirty)


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("gptx", "torch", "numpy", "hydra-core", "tiktoken"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def own_modules() -> dict[str, str]:
    """By name, files and packages that this process has imported from elsewhere than an environment: a user's variants
    among them. Of a namespace package, which is nobody's folder, what was imported of it."""
    found = {}
    library = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places = (*library, *site.getsitepackages(), site.getusersitepackages(), str(_PACKAGE), str(_PLUGINS))
    environments = [Path(place).resolve() for place in places]
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        package = sys.modules.get(name.rpartition(".")[0])
        if not file or not file.endswith(".py") or getattr(package, "__file__", None):
            continue
        place = Path(file).resolve()
        installed = {"site-packages", "dist-packages"} & set(place.parts)  # also one of a cluster's, by PYTHONPATH
        if not installed and not any(place.is_relative_to(environment) for environment in environments):
            found[name] = str(place.parent if place.name == "__init__.py" else place)
    return found


def own_code() -> dict[str, str]:
    """By name, what `own_modules` say, as a hash; not the program that was started, which is no variant."""
    return {name: _said(Path(place)) for name, place in own_modules().items() if not name.startswith("__")}


def changed(code: Mapping[str, str]) -> list[str]:
    """Names of those that are here and do not say any more what they said when ``code`` was `own_code`."""
    return [name for name, said in sorted(code.items()) if (place := _place(name)) and _said(place) != said]


def _place(name: str) -> Path | None:
    """Where a module lies, which is not imported for that."""
    with suppress(ImportError, ValueError):
        spec = find_spec(name)
        if spec and spec.origin and Path(spec.origin).is_file():
            return Path(spec.origin).parent if Path(spec.origin).name == "__init__.py" else Path(spec.origin)
    return None


def _said(place: Path) -> str:
    digest = hashlib.sha256()
    files = filter(Path.is_file, sorted(place.rglob("*.py"))) if place.is_dir() else [place]
    for path in files:
        digest.update(str(path.relative_to(place)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
