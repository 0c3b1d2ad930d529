"""Seconds and memory of checking a grid: ``gptx run -m ... dry_run=true`` for 100, 1,000 and 10,000 combinations.

The grid has 50 models of the preset nano, each with several learning rates and seeds; ``--models`` gives every
combination a model of its own. CPU seconds count all processes of the command.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from benchmarks.report import machine_facts, machine_text, terminal_table, write_json
from gptx.cli import Parser, exit_code
from gptx.errors import RunFailed
from gptx.output_files import check_output

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl: orphans become children of this process, so that their CPU counts
MODELS = {
    "attention": "mha,gqa,mqa,sink,gated",
    "pos": "none,rope,alibi,t5,kerple",
    "window": "full,sliding",
}
GRIDS = {100: (1, 2), 1000: (5, 4), 10_000: (20, 10)}  # learning rates and seeds for each of the 50 models
WIDTHS = {100: 2, 1000: 20, 10_000: 200}  # model widths for each of the 50 models, with --models
EXAMPLES = """examples:
  python -m benchmarks.grid                     100, 1,000 and 10,000 combinations of 50 models
  python -m benchmarks.grid 1000 --models       1,000 combinations, each of another model
"""


@dataclass(frozen=True)
class Check:
    """The cost of one command.

    Attributes:
        combinations: of the grid.
        seconds: wall-clock time of the command.
        cpu_seconds: of all its processes.
        peak_bytes: the largest sum of the private memory of its processes.
    """

    combinations: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.grid", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("sizes", nargs="*", type=int, choices=[*GRIDS, []], metavar="N", help="100, 1000 or 10000")
    parser.add_argument("--models", action="store_true", help="every combination has a model of its own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results to this file")
    return exit_code(lambda: _measure(parser.parse_args(argv)))


def _measure(args: argparse.Namespace) -> int:
    check_output("--json", args.json)
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    checks = [check(overrides(size, args.models)) for size in args.sizes or GRIDS]
    rows = [
        (f"{one.combinations:,}", f"{one.seconds:.1f}", f"{one.cpu_seconds:.1f}", f"{one.peak_bytes / 1e6:.0f}")
        for one in checks
    ]
    head = ("combinations", "seconds", "CPU seconds", "peak MB")
    terminal_table(head, rows, 0, caption=machine_text(torch.device("cpu")))
    if args.json:
        write_json(args.json, {**machine_facts(torch.device("cpu")), "checks": [asdict(one) for one in checks]})
    return 0


def overrides(size: int, models: bool) -> list[str]:
    """The overrides of a grid with ``size`` combinations. ``models``: each has a model of its own."""
    grid = [f"{key}={values}" for key, values in MODELS.items()]
    if models:
        return [*grid, f"model.d_model={','.join(str(64 + 8 * i) for i in range(WIDTHS[size]))}"]
    rates, seeds = GRIDS[size]
    grid.append(f"optim.lr={','.join(f'{(i + 1) * 1e-4:.4f}' for i in range(rates))}")
    return [*grid, f"seed={','.join(map(str, range(seeds)))}"]


def check(grid: Sequence[str]) -> Check:
    """Run the command on a grid and measure it."""
    size = 1
    for override in grid:
        size *= override.count(",") + 1
    with tempfile.TemporaryDirectory() as outputs:
        common = ["dry_run=true", "model=nano", "device=cpu", "tracking=off", f"paths.outputs={outputs}"]
        subprocess.run([sys.executable, "-m", "gptx.run", *common], check=True, capture_output=True)  # tokenises
        command = [sys.executable, "-m", "gptx.run", "-m", *common, *grid]
        start, cpu = time.monotonic(), _cpu_seconds()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            peak = _Peak(process.pid)
            out, err = process.communicate()
        if process.returncode != 0:
            raise RunFailed(f"the command failed: {err.strip() or out.strip()[-500:]}")
        seconds = time.monotonic() - start
        _reap_orphans()
    return Check(size, seconds, _cpu_seconds() - cpu, peak.stop())


def _cpu_seconds() -> float:
    """CPU seconds of all processes that have ended and were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _reap_orphans() -> None:
    """Wait for the fork server, which the command kills when it ends."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


class _Peak:
    """Measures in a thread the largest sum of the private memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peak, self.ended = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(0.5):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        total = 0
        try:
            root = psutil.Process(self.pid)
            for process in (root, *root.children(recursive=True)):
                total += process.memory_full_info().uss
        except psutil.Error:
            return total
        return total

    def stop(self) -> int:
        self.ended.set()
        self.thread.join()
        return self.peak


if __name__ == "__main__":
    sys.exit(main())
