"""Where a result comes from: the commit and the versions it was made with."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

COMMIT = ".commit.json"  # beside a copy of the package: what it was copied from


def git() -> dict[str, Any]:
    """Commit of gptx's own checkout and whether it has changes; empty strings where there is none."""
    root = Path(__file__).parents[1]

    def ask(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    if (root / COMMIT).exists():
        found: dict[str, Any] = json.loads((root / COMMIT).read_text())
        return found
    if not (root / ".git").exists():
        return {"commit": "", "dirty": False}
    return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("gptx", "torch", "numpy", "hydra-core", "tiktoken"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
