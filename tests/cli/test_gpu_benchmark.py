"""benchmarks.gpu, rehearsed on a CPU: what it measures, and what remains after a cut, a kill or an error."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from command import ROOT, environment
from failing_gpu_part import PART

from benchmarks.gpu.__main__ import NAMES, _run, main
from benchmarks.gpu.document import Document
from benchmarks.gpu.part import PartResult, Progress, Settings, State

TORCH_WITH_ITS_REQUIREMENTS = (
    *("torch", "torchgen", "functorch", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec"),
    *("setuptools", "_distutils_hack"),
)
PEER = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), learning_rate, betas, weight_decay=weight_decay)

    def forward(self, tokens, targets):
        logits = self.head(self.embed(tokens))
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""
COMMAND = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--out"]


def run(out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)


def start(out: Path, *arguments: str) -> "subprocess.Popen[str]":
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, str(out), *arguments], cwd=ROOT, env=environment(), **pipes)


def parts_of(out: Path) -> dict[str, Any]:
    return {part["name"]: part for part in json.loads((out / "gpu.json").read_text())["parts"]}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "kernel"], "'kernels'"),
        (["--minutes", "0"], "expected more than 0"),
        (["--peer", "nanogpt=/nowhere"], "there is no model.py in /nowhere"),
        (["--peer", "other=/"], "is not nanogpt=PATH"),
        (["--out", __file__], "is a file: expected a folder"),
        ([], "--out"),
    ],
)
def test_mistake_is_reported_in_one_line(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--out" in arguments or not arguments else ["--out", str(tmp_path / "out")]
    assert main(["--device", "cpu", *out, *arguments]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1) and text in shown.err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_machine_without_a_gpu_is_told_of_the_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no GPU" in error and "--device cpu" in error
    assert not (tmp_path / "out").exists()


def test_results_of_an_earlier_benchmark_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gpu.json").write_text("{}")
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "use another folder" in capsys.readouterr().err


def test_one_part(tmp_path: Path) -> None:
    done = run(tmp_path / "a folder", "--only", "device")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(parts_of(tmp_path / "a folder")) == ["device"]
    report = (tmp_path / "a folder" / "gpu.md").read_text()
    assert "| matrix bf16 |" in report and f"torch {torch.__version__}" in report and "it is complete" in report
    assert "s in all" in done.stdout.splitlines()[-1]


@pytest.mark.full
def test_part_that_takes_too_long_is_cut_off_and_the_rest_is_listed(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "resume", "decoding", "tests", "--minutes", "0.1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "decoding: not run; tests: not run" in done.stderr
    parts = parts_of(tmp_path)
    assert [part["progress"] for part in parts.values()] == ["cut off", "not run", "not run"]
    assert parts["resume"]["rows"][-1]["state"] == "not run"
    report = (tmp_path / "gpu.md").read_text()
    assert "cut off: the time of the part was over" in report
    assert report.count("| not run: no time was left |") == 2


@pytest.mark.full
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_what_was_measured_remains_when_the_command_is_stopped(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = start(tmp_path, "--only", "device", "times")
    assert process.stdout is not None
    for line in process.stdout:
        if "times: sdpa" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    _, alive = psutil.wait_procs(children, 60)
    assert not alive
    parts = parts_of(tmp_path)
    assert parts["device"]["progress"] == "done"
    assert parts["times"]["progress"] == ("running" if number == signal.SIGKILL else "interrupted")
    assert parts["times"]["rows"][0]["state"] == "ok"
    report = (tmp_path / "gpu.md").read_text()
    assert "| matrix bf16 |" in report and "## Times of the kernels" in report
    assert ("was killed" if number == signal.SIGKILL else "it was interrupted") in report


@pytest.mark.full
def test_failing_cases_do_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    parts = [PART, replace(PART, name="again", cases=lambda settings: {"fine": "fine"})]
    results = {part.name: PartResult(part.name) for part in parts}
    (tmp_path / "logs").mkdir()
    document = Document(tmp_path, parts, results, "", 8, "cpu")
    _run(document, Settings("cpu", 0, str(tmp_path)), document.began + 480)
    document.close("closed")
    failing = results["failing"]
    assert failing.progress == Progress.DONE
    assert {row.case: row.state for row in failing.rows} == {
        "fine": State.OK,
        "raises": State.FAILED,
        "unsupported": State.UNSUPPORTED,
        "memory": State.NO_MEMORY,
        "dies": State.FAILED,
        "hangs": State.CUT,
        "wrong": State.WRONG,
        "last": State.OK,
    }
    rows = {row.case: row for row in failing.rows}
    assert rows["raises"].text == "ValueError: no number"
    assert "SIGABRT" in rows["dies"].text
    assert rows["hangs"].figures == {"value": 2, "wrong": ""} and "more than 9 s" in rows["hangs"].text
    assert results["again"].rows[0].state == State.OK
    assert "Traceback" in (tmp_path / "logs" / "failing.log").read_text()
    assert parts_of(tmp_path)["failing"]["rows"][6]["figures"]["value"] == "inf"
    report = (tmp_path / "gpu.md").read_text()
    assert "a fault of the table" in report and "- failed: ValueError: no number: raises" in report
    assert document.faults() == ["failing: 2 failed, 1 out of memory, 1 cut off, 1 wrong"]


@pytest.mark.full
def test_rehearsal_of_every_part(tmp_path: Path) -> None:
    peer = tmp_path / "a peer"
    peer.mkdir()
    (peer / "model.py").write_text(PEER)
    done = run(tmp_path, "--minutes", "12", "--peer", f"nanogpt={peer}")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = parts_of(tmp_path)
    assert list(parts) == list(NAMES)
    states = {row["state"] for part in parts.values() for row in part["rows"]}
    assert states == {"ok", "unsupported"}
    for name in NAMES:
        assert parts[name]["progress"] == "done" and "ok" in {row["state"] for row in parts[name]["rows"]}
    report = (tmp_path / "gpu.md").read_text()
    assert "cannot be made" not in report and "it is complete" in report
    for text in (
        "| nano | nanoGPT, compiled | 2 |",
        "| single | kill |",
        "| ddp fp32 |",
        "| 32 sequences, bf16 weights |",
        "bitwise equal",
    ):
        assert text in report


def test_wheels_script_reports_wrong_arguments(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "gpu_wheels.sh"
    assert subprocess.run(["bash", "-n", script]).returncode == 0

    def error(*arguments: str, **env: str) -> str:
        done = subprocess.run([script, *arguments], env=os.environ | env, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    assert "benchmarks/gpu_wheels.sh DIR" in error()
    assert "is a file: expected a folder" in error(__file__)
    assert "expected a version such as 3.12" in error(str(tmp_path / "wheels"), PYTHON="three")
    assert "http" not in script.read_text()


@pytest.mark.full
def test_wheels_are_all_that_the_benchmark_needs(tmp_path: Path) -> None:
    """Downloads them, for this Python, and starts the benchmark with them alone, and torch with what it requires."""
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pip = f"{sys.executable} -m pip"
    script = ROOT / "benchmarks" / "gpu_wheels.sh"
    done = subprocess.run(
        [script, wheels], env=os.environ | {"PYTHON": version, "PIP": pip}, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"the wheels cannot be downloaded here: {done.stderr.strip()[-200:]}")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    [site] = venv.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site]
    subprocess.run([*install, *wheels.glob("*.whl")], check=True)
    for name in TORCH_WITH_ITS_REQUIREMENTS:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            (site / name).symlink_to(Path(spec.origin).parent)
    typing_extensions = importlib.util.find_spec("typing_extensions")
    assert typing_extensions and typing_extensions.origin
    shutil.copy(typing_extensions.origin, site)
    parts = ("device", "kernels", "strategies")
    command = [venv / "bin" / "python", *COMMAND[1:], tmp_path / "out", "--only", *parts]
    env = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
