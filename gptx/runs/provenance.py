"""The code of a run: the commit of gptx, the versions of packages, and hashes of the user's own modules."""

import hashlib
import json
import platform
import shlex
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from gptx.runs.json_codec import from_json
from gptx.runs.preflight_facts import GitState
from gptx.terminal import shell_words

PACKAGE = Path(__file__).parents[1]
_PLUGINS = PACKAGE.parent / "hydra_plugins"
COMMIT = ".commit.json"  # beside a copy of the package: the state of the checkout that it was copied from


def git() -> GitState:
    """The state of gptx's own checkout, or of the checkout that this package is a copy of."""
    root = PACKAGE.parent

    def ask(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:  # this machine has no git: nothing is known
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    if (root / COMMIT).exists():
        return from_json(GitState, json.loads((root / COMMIT).read_text()))
    if not (root / ".git").exists():
        return GitState()
    dirty = bool(ask("status", "--porcelain", "--untracked-files=no"))
    return GitState(commit=ask("rev-parse", "HEAD"), dirty=dirty)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("gptx", "torch", "numpy", "hydra-core", "tiktoken"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command_line() -> str:
    """The command of this process as text for a shell, without ``force=true``, which a resume must not have."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("force=")]
    return shlex.join(["python", "-m", "gptx.run", *arguments])


def outputs_option(outputs: Path) -> str:
    """`` --outputs FOLDER`` for a suggested command, or nothing if the folder of all runs is the default."""
    return "" if outputs == Path("outputs") else f" --outputs {shell_words([str(outputs)])}"


def own_modules() -> dict[str, str]:
    """Files and packages, by name, that this process has imported from outside gptx and the Python environment.

    These are the user's own variants, among others. Of a namespace package, which has no single folder, the
    imported modules are listed.
    """
    return dict(_own_modules(frozenset(sys.modules)))


@lru_cache(maxsize=1)  # a sweep asks for every cell, and paths are slow to resolve
def _own_modules(_: frozenset[str]) -> dict[str, str]:
    """`own_modules`, for the names of the modules that are imported now."""
    found = {}
    library = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places = (*library, *site.getsitepackages(), site.getusersitepackages(), str(PACKAGE), str(_PLUGINS))
    environments = [Path(place).resolve() for place in places]
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        package = sys.modules.get(name.rpartition(".")[0])
        if not file or not file.endswith(".py") or getattr(package, "__file__", None):
            continue
        path = Path(file).resolve()
        installed = {"site-packages", "dist-packages"} & set(path.parts)  # also those in PYTHONPATH, as on clusters
        if not installed and not any(path.is_relative_to(environment) for environment in environments):
            found[name] = str(path.parent if path.name == "__init__.py" else path)
    return found


def own_code() -> dict[str, str]:
    """Source hashes of `own_modules`, by name, without the program that was started, which is no variant."""
    return {name: source_hash(Path(path)) for name, path in own_modules().items() if not name.startswith("__")}


def own_source(*classes: type) -> str:
    """A hash of the modules or packages that define the user's own classes among some classes and their bases; "" if
    there are none."""
    modules = {sys.modules.get(base.__module__) for one in classes for base in one.__mro__}
    files = {Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))}
    sources = (Path(path) for path in own_modules().values())
    used = [source for source in sources if any(file.is_relative_to(source) for file in files)]
    return hashlib.sha256(" ".join(sorted(map(source_hash, used))).encode()).hexdigest() if used else ""


def changed(code: Mapping[str, str]) -> list[str]:
    """Names of the modules that exist and whose source hash is not the one in ``code``, an earlier `own_code`."""
    return [name for name, old in sorted(code.items()) if (path := _source(name)) and source_hash(path) != old]


def _source(name: str) -> Path | None:
    """The file or folder of a module, found without importing it."""
    with suppress(ImportError, ValueError):
        spec = find_spec(name)
        if spec and spec.origin and Path(spec.origin).is_file():
            return Path(spec.origin).parent if Path(spec.origin).name == "__init__.py" else Path(spec.origin)
    return None


def source_hash(path: Path) -> str:
    """A hash of a Python file, or of all Python files in a folder."""
    digest = hashlib.sha256()
    files = filter(Path.is_file, sorted(path.rglob("*.py"))) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
