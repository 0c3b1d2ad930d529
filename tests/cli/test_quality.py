"""Static checks: lint, format, types, layers, imports, length of files, and types of YAML defaults."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from command import ROOT

SOURCES = sorted((ROOT / "gptx").rglob("*.py"))
YAMLS = sorted(p for folder in ("conf", "experiments") for p in (ROOT / folder).rglob("*.yaml"))

# The packages whose import is restricted, and the modules of gptx that may import them.
ONLY_USERS = {
    "torch.distributed": {
        "gptx/strategy",
        "gptx/processes/workers.py",
        "gptx/training/checkpoint.py",
        "gptx/training/checkpoint_reader.py",
    },
    "mlflow": {"gptx/tracking", "gptx/compare"},
    "hydra": {"gptx/config", "gptx/run.py", "gptx/sweep"},
    "optuna": {"gptx/sweep"},
    "datasets": {"gptx/data"},
    "pyarrow": {"gptx/data"},
    "tiktoken": {"gptx/tokenizer"},
    "rustbpe": {"gptx/tokenizer"},
}


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint() -> None:
    run("ruff", "check", ".")


def test_format() -> None:
    run("ruff", "format", "--check", ".")


@pytest.mark.full
def test_types() -> None:
    run("mypy")


def test_layers() -> None:
    """Both contracts of .importlinter: the order of gptx's packages, and the order within gptx.sweep."""
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 2 kept, 0 broken." in done.stdout


@cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def variants() -> set[str]:
    """Modules of the classes that the YAML files name."""
    targets = [yaml.safe_load(path.read_text()).get("_target_", "") for path in (ROOT / "conf").glob("*/*.yaml")]
    modules = {target.rpartition(".")[0] for target in targets}
    return {name for name in modules if name.startswith("gptx.") and name.count(".") == 2}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_variants_are_imported_only_within_their_axis(source: Path) -> None:
    assert len(variants()) > 10
    axis = ".".join(source.relative_to(ROOT).parts[:-1])
    assert {name for name in imports(source) & variants() if name.rpartition(".")[0] != axis} == set()


@pytest.mark.parametrize("package", ONLY_USERS)
def test_package_is_imported_only_by_its_users(package: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == package or name.startswith(package + ".") for name in imports(path))
    }
    assert users, f"no module imports {package}: is the rule out of date?"
    strangers = {u for u in users if not any(u == home or u.startswith(home + "/") for home in ONLY_USERS[package])}
    assert not strangers


def test_config_imports_no_torch() -> None:
    code = "import gptx.run, sys; gptx.config.compose.compose(['attention=gqa']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_length_of_files(path: Path) -> None:
    limit = 60 if path.name == "base.py" and path.parent.name in ("attention", "window") else 250
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_yaml_default_has_a_type(path: Path) -> None:
    """null has no type, so a value given for the key could not be checked."""

    def leaves(node: object, name: str) -> list[tuple[str, object]]:
        if isinstance(node, dict):
            return [leaf for key, value in node.items() for leaf in leaves(value, f"{name}.{key}")]
        return [(name, node)]

    config = yaml.safe_load(path.read_text()) or {}
    config.pop("defaults", None)
    config.pop("hydra", None)
    if path.parent.parent.name == "hydra":
        return
    assert not [name for name, value in leaves(config, "") if value is None]
