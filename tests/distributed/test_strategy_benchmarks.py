"""The benchmarks of strategies and of faults: they run, and report differences and wrong options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

from benchmarks import faults, strategies
from gptx.config.overrides import options

MODULE = "import sys, benchmarks.{0} as bench; {1}; sys.exit(bench.main(sys.argv[1:]))"


def bench(name: str, *arguments: str, first: str = "pass") -> "subprocess.CompletedProcess[str]":
    """Run a benchmark in a separate process, after the statement ``first``."""
    command = [sys.executable, "-c", MODULE.format(name, first), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.full
def test_losses_of_every_strategy_equal_those_of_one_process(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = bench("strategies", "--processes", "2", "--steps", "6", "--markdown", "--json", str(file))
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    for dtype, bound in (("fp32", 1e-5), ("bf16", 1e-3)):
        cases = [case for case in figures if case["dtype"] == dtype]
        assert {case["strategy"] for case in cases} == set(options("strategy")) - {"single"}
        assert len({case["model"] for case in cases}) == 2
        for case in cases:
            assert len(case["losses"]) == len(case["single"]) == 6
            assert case["losses"] == pytest.approx(case["single"], rel=bound), case
            assert case["losses"][-1] < case["losses"][0]
            assert f"| {case['strategy']} | 2 |" in done.stdout


@pytest.mark.full
def test_difference_from_one_process_is_reported_as_a_bug() -> None:
    arguments = ("--strategy", "ddp", "--processes", "2", "--steps", "1")
    done = bench("strategies", *arguments, first="bench.LIMIT = -1")
    assert done.returncode == 1
    assert "strategy=ddp on 2 processes" in done.stderr and "a bug of gptx" in done.stderr


@pytest.mark.full
def test_speed_and_memory_of_strategies(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ("--speed", "--processes", "2", "--steps", "3", "--json", str(file))
    done = bench("strategies", "--strategy", "ddp", "fsdp", *arguments)
    assert done.returncode == 0, done.stderr
    single, ddp, fsdp = json.loads(file.read_text())
    assert [case["processes"] for case in (single, ddp, fsdp)] == [1, 2, 2]
    assert single["held"] == ddp["held"] and fsdp["held"] == pytest.approx(single["held"] / 2, rel=0.01)
    assert fsdp["peak"] < ddp["peak"]


@pytest.mark.full
def test_killed_runs_lose_no_step(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = bench("faults", "--kills", "4", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(file.read_text())) == 4 and "nothing was lost" in done.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("strategies", ["--steps", "0"], "expected at least 1"),
        ("strategies", ["--strategy", "dpp"], "'ddp'"),
        ("strategies", ["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
        ("faults", ["--kills", "0"], "expected at least 1"),
        ("faults", ["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
    ],
)
def test_wrong_option_is_reported_in_one_line(
    name: str, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"strategies": strategies, "faults": faults}[name].main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and text in err
