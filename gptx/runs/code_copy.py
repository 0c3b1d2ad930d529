"""The copy of the user's own modules in a run folder, and how they are imported from it once the user trusts it.

Nothing here adds a folder to ``sys.path``: only modules whose source has the recorded hash can be imported, from the
text that was checked. Compiled files are neither copied nor read.
"""

import ast
import hashlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

from gptx.errors import ConfigError
from gptx.regular_files import open_regular, refuse_links
from gptx.runs.provenance import own_modules

CODE = "code"  # the folder of the copy, in a run folder
LARGEST = 2**20  # bytes of all source files together
_INIT = "__init__.py"

# The source files of a module by their path in its folder; those of a module that is one file have the path ".".
Sources = dict[str, bytes]


def save_copy(run: Path, modules: Iterable[str]) -> str:
    """Copy modules of the user into a run folder, and those of the user that they import from the same folder.

    Args:
        modules: dotted names, as a config's targets have them.

    Returns:
        A warning if the modules are too large to be copied, else "".
    """
    sources = {name: _read(Path(path)) for name, path in _with_imported(modules, own_modules()).items()}
    size = sum(len(text) for files in sources.values() for text in files.values())
    if size > LARGEST:
        return f"the run folder has no copy of {', '.join(sources)}: {size} bytes are more than {LARGEST}"
    for name, files in sources.items():
        for path, text in files.items():
            target = _place(run / CODE, name) / path if path != "." else _place(run / CODE, name).with_suffix(".py")
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_regular(target, "wb") as file:
                file.write(text)
    return ""


def _with_imported(modules: Iterable[str], own: Mapping[str, str]) -> dict[str, str]:
    """The files and folders of modules by name, with those that they import from the same folder."""
    found: dict[str, str] = {}
    waiting = [name for module in modules for name in own if f"{module}.".startswith(f"{name}.")]
    while waiting:
        name = waiting.pop()
        found[name] = own[name]
        sources = _read(Path(own[name])).items()
        imported = {other for path, text in sources for other in _imports(text, _package(name, path))}
        used = [other for other in own if imported & {other, *_parents(other)} and other not in found]
        waiting += [other for other in used if _root(other, own) == _root(name, own)]
    return dict(sorted(found.items()))


def _root(name: str, own: Mapping[str, str]) -> Path:
    """The folder from which a module is imported."""
    return Path(own[name]).parents[name.count(".")]


def _parents(name: str) -> Iterator[str]:
    return (name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1))


def _package(name: str, path: str) -> str:
    """The package to which relative imports in a source of a module refer. ``path``: as in `_read`."""
    if path == ".":
        return name.rpartition(".")[0]
    return ".".join([name, *Path(path).parts[:-1]])


def _imports(text: bytes, package: str) -> Iterator[str]:
    """The full names of the modules that a source imports; of ``from a import b`` also ``a.b``, which may be one."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # a file of a package that was not imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join(filter(None, [*above, node.module]))
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def _read(path: Path) -> Sources:
    """The sources of a Python file, or of all Python files of a package, as `gptx.runs.provenance.source_hash` counts
    them."""
    if not path.is_dir():
        return {".": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*.py")) if file.is_file()}


def _hash(files: Sources) -> str:
    """The hash of `gptx.runs.provenance.source_hash`."""
    digest = hashlib.sha256()
    for path, text in files.items():
        digest.update(path.encode() + b"\0" + text)
    return digest.hexdigest()[:16]


def _place(folder: Path, name: str) -> Path:
    """Where the copy of a module is, without the suffix of a file.

    Raises:
        ConfigError: the name is not that of a module.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{folder}: {name!r} is not the name of a module")
    return folder.joinpath(*name.split("."))


def copied(run: Path, recorded: Mapping[str, str]) -> dict[str, Path]:
    """The recorded modules of which a run folder has a copy: file or folder by name."""
    places = {name: _place(run / CODE, name) for name in recorded}
    found = {name: place if place.is_dir() else place.with_suffix(".py") for name, place in places.items()}
    return {name: path for name, path in found.items() if path.exists()}


def import_from_copy(run: Path, recorded: Mapping[str, str]) -> list[str]:
    """Let this process import the modules of a run folder's copy. The user has trusted it.

    A module that is on the Python path anyway is imported from there, and must have the recorded hash.

    Args:
        recorded: hashes of the sources by name, from the run's start record.

    Returns:
        The names of these modules.

    Raises:
        ConfigError: there is no copy, it contains a symbolic link, or a source does not have the recorded hash.
    """
    refuse_links(run)
    sources = {name: _read_copy(path) for name, path in copied(run, recorded).items()}
    if not sources:
        raise ConfigError(
            f"{run} has no copy of own modules: add their folder to PYTHONPATH and name them with --trust"
        )
    for name, files in sources.items():
        if _hash(files) != recorded[name]:
            raise ConfigError(f"{run / CODE}: the source of {name} does not have the hash that the journal recorded")
        if other := _other_version(name, recorded[name]):
            raise ConfigError(
                f"{run / CODE} has another version of {name} than {other}, which is imported before it: remove that "
                f"from the Python path, or use it with --trust {name}"
            )
    texts = {module: text for name, files in sources.items() for module, text in _texts(run, name, files)}
    sys.meta_path.append(CopyFinder(run, {name: recorded[name] for name in sources}, texts))
    return list(sources)


def _read_copy(path: Path) -> Sources:
    """`_read` for files of somebody else, without links (the caller has refused them) and of limited size."""
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    sources: Sources = {}
    for file in files:
        with open_regular(file, "rb") as opened:
            sources["." if file == path else str(file.relative_to(path))] = opened.read(LARGEST + 1)
        if sum(map(len, sources.values())) > LARGEST:
            raise ConfigError(f"{path} has more than {LARGEST} bytes")
    return sources


def _texts(run: Path, name: str, files: Sources) -> Iterator[tuple[str, tuple[Path, bytes]]]:
    """The modules of a copy: file and source by name. Folders without a source above a module are empty packages."""
    place = _place(run / CODE, name)
    for parent in _parents(name):
        yield parent, (_place(run / CODE, parent) / _INIT, b"")
    for path, text in files.items():
        if path == ".":
            yield name, (place.with_suffix(".py"), text)
            continue
        inner = Path(path).parent if Path(path).name == _INIT else Path(path).with_suffix("")
        yield ".".join([name, *inner.parts]), (place / path, text)


def _other_version(name: str, recorded: str) -> str:
    """Where another version of a module comes from that can be imported, or has been; "" if there is none."""
    for finder in sys.meta_path:
        if isinstance(finder, CopyFinder) and name in finder.hashes:
            return "" if finder.hashes[name] == recorded else str(finder.run / CODE)
    try:
        spec = getattr(sys.modules.get(name), "__spec__", None) or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    if not spec or not spec.origin:
        return ""
    path = Path(spec.origin)
    return "" if _hash(_read(path.parent if path.name == _INIT else path)) == recorded else str(path)


class CopyFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from texts in memory. Python asks it last, for modules that are nowhere else.

    Args:
        hashes: of the modules by name.
        texts: file and source by name, of their submodules, too.
    """

    def __init__(self, run: Path, hashes: Mapping[str, str], texts: Mapping[str, tuple[Path, bytes]]) -> None:
        self.run, self.hashes, self._texts = run, hashes, texts

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._texts:
            return None
        spec = ModuleSpec(name, self, origin=str(self._texts[name][0]), is_package=self.is_package(name))
        spec.has_location = True  # the module gets a __file__
        return spec

    def is_package(self, name: str) -> bool:
        return self._texts[name][0].name == _INIT

    def get_source(self, name: str) -> str:
        return importlib.util.decode_source(self._texts[name][1])

    def get_code(self, name: str) -> CodeType:
        return compile(self._texts[name][1], str(self._texts[name][0]), "exec", dont_inherit=True)
