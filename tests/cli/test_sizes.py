"""Limits on the size of files and functions, and unique class names."""

import ast
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ROOT

SOURCES = sorted((ROOT / "gptx").rglob("*.py"))
COMMANDS = {
    "run",
    "ui",
    "generate",
    "variants",
    "prove",
    "new",
    "certify",
    "sync",
    "__main__",
    "__init__",
    "cli",
    "errors",
}
COMMANDS |= {"regular_files", "output_files", "console", "terminal"}


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """All functions and methods of a file."""
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


def length(function: ast.FunctionDef) -> int:
    """Lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_top_level_has_only_commands_and_public_modules() -> None:
    names = {path.stem for path in (ROOT / "gptx").glob("*.py")}
    assert names <= COMMANDS and len(names) <= 20


@pytest.mark.parametrize("name", ["run", "ui", "generate", "variants", "prove", "new", "certify", "sync"])
def test_command_modules_have_at_most_60_lines(name: str) -> None:
    assert len((ROOT / "gptx" / f"{name}.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_forwards_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250
    assert [f.name for f in functions(path) if f.name == "forward" and length(f) > 25] == []


def test_median_function_has_at_most_ten_lines() -> None:
    assert statistics.median(length(function) for path in SOURCES for function in functions(path)) <= 10


def test_every_package_has_a_docstring() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_class_names_are_unique() -> None:
    locations: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                locations[node.name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in locations.items() if len(files) > 1} == {}


def test_no_signature_passes_an_untyped_dict() -> None:
    """`dict[str, Any]` may appear in private functions that read or write JSON, not in a public signature."""
    found = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in SOURCES
        for function in functions(path)
        if not function.name.startswith("_")
        and "dict[str, Any]" in " ".join(ast.unparse(n) for n in [function.args, function.returns] if n)
    ]
    assert found == []
