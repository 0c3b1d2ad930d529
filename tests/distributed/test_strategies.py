"""Strategies are the grid's null factor: how a run is spread changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import OWN, ROOT

from gptx.config.overrides import options

STRATEGIES = set(options("strategy")) - {"single"}
MODULE = "import sys, benchmarks.{0} as bench; {1}; sys.exit(bench.main(sys.argv[1:]))"


def bench(name: str, *arguments: str, first: str = "pass") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", MODULE.format(name, first), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


def test_every_strategy_on_disk_has_the_losses_of_one_process(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    done = bench("strategies", "--processes", "2", "--steps", "6", "--markdown", "--json", str(told))
    assert done.returncode == 0, done.stderr
    found = json.loads(told.read_text())
    for dtype, bound in (("fp32", 1e-5), ("bf16", 1e-3)):
        cases = [case for case in found if case["dtype"] == dtype]
        assert {case["strategy"] for case in cases} == STRATEGIES
        assert len({case["model"] for case in cases}) == 2
        for case in cases:
            assert len(case["losses"]) == len(case["single"]) == 6
            assert case["losses"] == pytest.approx(case["single"], rel=bound), case
            assert case["losses"][-1] < case["losses"][0]
            assert f"| {case['strategy']} | 2 |" in done.stdout


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Losses of three steps, by what was trained how."""
    folder = tmp_path_factory.mktemp("combined")
    paths = os.pathsep.join([str(ROOT), str(OWN)])
    command = [sys.executable, "-m", "combined", str(folder)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    told: dict[str, list[float]] = json.loads((folder / "told.json").read_text())
    return told


def test_checkpointing_and_compile_compose_with_all_strategies(combined: dict[str, list[float]]) -> None:
    compared = {name: losses for name, losses in combined.items() if "bf16" not in name}
    assert len(compared) == (len(STRATEGIES) + 1) * 8 + 3
    for name, losses in compared.items():
        alone = combined["single, experts" if "experts" in name else "single, alone"]
        assert losses == pytest.approx(alone, rel=1e-5), name


def test_bf16_weights_and_sums_are_near(combined: dict[str, list[float]]) -> None:
    for name in ("fsdp, bf16 sums", "fsdp, bf16 weights"):
        assert combined[name] == pytest.approx(combined["single, alone"], rel=1e-2)
        assert combined[name] != pytest.approx(combined["single, alone"], rel=1e-6)


@pytest.mark.slow
def test_a_difference_is_called_a_bug() -> None:
    arguments = ("--strategy", "ddp", "--processes", "2", "--steps", "1")
    done = bench("strategies", *arguments, first="bench.LIMIT = -1")
    assert done.returncode == 1
    assert "strategy=ddp on 2 processes" in done.stderr and "a bug of gptx" in done.stderr


@pytest.mark.slow
def test_times_and_memory_of_a_strategy(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    arguments = ("--speed", "--processes", "2", "--steps", "3", "--json", str(told))
    done = bench("strategies", "--strategy", "ddp", "fsdp", *arguments)
    assert done.returncode == 0, done.stderr
    single, ddp, fsdp = json.loads(told.read_text())
    assert [case["processes"] for case in (single, ddp, fsdp)] == [1, 2, 2]
    assert single["held"] == ddp["held"] and fsdp["held"] == pytest.approx(single["held"] / 2, rel=0.01)
    assert fsdp["peak"] < ddp["peak"]


@pytest.mark.slow
def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    done = bench("faults", "--kills", "6", "--json", str(told))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(told.read_text())) == 6 and "nothing was lost" in done.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("strategies", ["--steps", "0"], "expected at least 1"),
        ("strategies", ["--strategy", "dpp"], "'ddp'"),
        ("strategies", ["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
        ("faults", ["--kills", "0"], "expected at least 1"),
        ("faults", ["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
    ],
)
def test_a_mistake_gets_one_clear_line(name: str, arguments: list[str], said: str) -> None:
    done = bench(name, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gptx: ") and done.stderr.count("\n") == 1 and said in done.stderr
