"""Pieces of benchmarks.gpu: the order of the kernels, a run that takes too long, and a machine that cannot compile."""

import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from benchmarks.gpu import compiler
from benchmarks.gpu.kernel_times import Setup, Time, orders
from benchmarks.gpu.part import Row, Settings, State, Unsupported
from benchmarks.gpu.resume import wait


def row(kernel: str, context: int, ms: float) -> Row:
    time = Time(Setup(kernel, "bf16", 0, context), ms, 16, 1000, 0.0, "sdpa")
    return Row(kernel, State.OK, 1.0, time.text, asdict(time))


def test_order_keeps_a_kernel_that_is_measured_at_fewer_contexts() -> None:
    rows = [row("sdpa", 1024, 2), row("sdpa", 4096, 4), row("flex", 1024, 4), row("flex", 4096, 4)]
    [order] = orders([*rows, row("reference", 1024, 20)])
    assert order.contexts == [1024, 4096]
    assert list(order.slower) == ["sdpa", "flex", "reference"]
    assert order.slower == pytest.approx({"sdpa": 1, "flex": 2**0.5, "reference": 10})


def test_run_that_takes_too_long_is_killed() -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        wait(run, 0.1)
    assert run.returncode == -9


def test_machine_that_cannot_compile_is_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: object) -> object:
        raise RuntimeError("Failed to find C compiler.\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(compiler, "compile_fault", compiler.compile_fault.__wrapped__)
    with pytest.raises(Unsupported, match=r"RuntimeError: Failed to find C compiler\.$"):
        compiler.needs_compiler(Settings("meta", 0, ""))  # any device but the CPU
