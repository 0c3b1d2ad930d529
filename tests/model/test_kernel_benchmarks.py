"""The benchmarks of kernels and windows: they run, and report wrong options."""

import importlib.machinery
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT


@pytest.mark.parametrize(
    ("module", "arguments", "reason"),
    [
        ("kernels", ["--rounds", "0"], "at least 1"),
        ("kernels", ["--kernel", "fast"], "'reference', 'sdpa', 'banded', 'flex', 'flash'"),
        ("kernels", ["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
        ("window", ["--longest", "100"], "512"),
        ("window", ["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
        ("window", ["--dtype", "fp8"], "--help"),
    ],
)
def test_benchmarks_reject_wrong_flags_in_one_line(
    module: str, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"benchmarks.{module}").main
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("gptx: ") and err.count("\n") == 1 and reason in err


@pytest.mark.full
@pytest.mark.parametrize(
    ("module", "arguments", "cells"),
    [
        ("kernels", "--device cpu --context 64 512 --window 0 32 --heads 4x32 --tokens 512 --rounds 1 --fit", 16),
        ("window", "--longest 512 --tokens 512 --rounds 1 --seconds 0 --device cpu", 3),
    ],
)
def test_kernel_benchmarks_run(module: str, arguments: str, cells: int, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments.split(), "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert len(found["cells"]) == cells
    assert "auto" in done.stdout and found["hardware"]["name"] in done.stdout
