"""The speed benchmark, through the real command line."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.train", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.full
def test_train_measures_every_arm(tmp_path: Path) -> None:
    figures = tmp_path / "speed.json"
    once = ("--shape", "nano", "--rounds", "1", "--seconds", "0.1", "--device", "cpu")
    done = bench(*once, "--arm", "attention=mqa", "--markdown", "--json", str(figures))
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    arms = {timing["arm"]: timing for timing in found["timings"]}
    assert list(arms) == ["gptx", "gptx fp32", "gptx, default variant", "gptx attention=mqa"]
    assert all(len(timing["tokens_per_s"]) == 1 and timing["median"] > 0 for timing in arms.values())
    assert arms["gptx"]["n_params"] == 4 * (12 * 128**2 + 2 * 128) + (65 + 64 + 1) * 128
    assert arms["gptx attention=mqa"]["n_params"] < arms["gptx"]["n_params"]
    assert found["hardware"]["name"] in done.stdout
    assert f"| nano | gptx | {arms['gptx']['median']:,.0f} |" in done.stdout
    assert "nanogpt" not in done.stdout  # no peer was measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peer", "nanogpt=/nowhere"], "no model.py in /nowhere"),
        (["--peer", "mingpt=."], "nanogpt=PATH"),
        (["--shape", "huge"], "'nano', 'small', 'gpt2', 'gpt2_4'"),
        (["--rounds", "0"], "at least 1 round"),
        (["--json", "/nowhere/a.json"], "folder /nowhere does not exist"),
    ],
)
def test_a_wrong_argument_gives_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    assert importlib.import_module("benchmarks.train").main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gptx: ") and err.count("\n") == 1
    assert message in err
