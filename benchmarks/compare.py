"""How long reading and comparing many runs takes: gptx.results, gptx.curves and gptx.compare_runs on synthetic runs.

A run folder has what training writes: result.json, a journal with 100 metrics records of which 20 are validations, and
the losses of 512 units of the validation text. The arms are a grid of attention, pos and window. Each time is that of a
new process, imports included, without starting Python.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gptx.cli import Parser, exit_code
from gptx.config.compose import compose_plain
from gptx.runs.preflight_facts import DataFacts, GitState, Hardware
from gptx.runs.records import (
    EndRecord,
    MetricsRecord,
    Result,
    RunEndReason,
    RunStatus,
    StartRecord,
    result_of,
    write_record,
    write_result,
)
from gptx.runs.unit_losses import UnitLosses, write_unit_losses
from gptx.terminal import echo

AXES = {
    "attention": {"mha": 0.0, "gqa": 0.003, "mqa": 0.02, "mla": -0.01, "gated": -0.03},
    "pos": {"rope": 0.0, "learned": 0.25, "alibi": 0.02, "none": 0.3, "t5": 0.01},
    "window": {"full": 0.0, "sliding": 0.03, "alternating": 0.004, "chunked": 0.06},
}
STEPS, EVERY, VALIDATIONS, UNITS, UNIT_TOKENS = 1000, 10, 5, 512, 128  # a validation every fifth record
CALLS = {
    "gptx.results": "gptx.results(path)",
    "gptx.curves": "gptx.curves(path)",
    "gptx.compare_runs": "found = gptx.compare_runs(path); found.sentence",
    "the table of differences": "found = gptx.compare_runs(path); found.sentence, found.table",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = Parser("python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--options", type=int, nargs=3, default=[5, 5, 4], metavar="N", help="options of each axis")
    parser.add_argument("--seeds", type=int, default=10, help="runs of an arm (default: 10)")
    parser.add_argument("--folder", type=Path, help="write the runs here, and keep them")
    return exit_code(lambda: _measure(parser.parse_args(argv)))


def _measure(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        echo(f"{write_runs(folder, args.options, args.seeds)} runs")
        for name, call in CALLS.items():
            if not args.folder:
                wall, cpu = _seconds(call, folder)
                echo(f"{name}: {wall:.1f} s, {cpu:.1f} s of CPU time")


def _seconds(call: str, folder: Path) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, which other programs on the machine change less."""
    code = "import sys, time; path = sys.argv[1]; t, c = time.perf_counter(), time.process_time(); "
    code += f"import gptx; {call}; print(time.perf_counter() - t, time.process_time() - c)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=True)
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def write_runs(root: Path, options: Sequence[int], seeds: int) -> int:
    """Write run folders, and return their number. ``options``: how many of each axis."""
    config = compose_plain([])
    names = [list(found)[:n] for found, n in zip(AXES.values(), options, strict=True)]
    for number, (levels, seed) in enumerate(product(product(*names), range(seeds))):
        _write_run(
            root / "synthetic" / f"{'-'.join(levels)}-s{seed}",
            config,
            dict(zip(AXES, levels, strict=True)),
            seed,
            number,
        )
    return math.prod(options) * seeds


def _write_run(folder: Path, config: Any, levels: dict[str, str], seed: int, number: int) -> None:
    rng, shared = np.random.default_rng(number), np.random.default_rng(seed + 10**6)
    final = 1.5 + shared.normal(0, 0.02) + rng.normal(0, 0.004)
    final += sum(AXES[axis][level] for axis, level in levels.items())
    final += 0.02 * (levels["pos"] == "learned") * (levels["window"] == "sliding")
    start = _start(config, levels, seed, number)
    folder.mkdir(parents=True)
    tokens_per_s = 60_000 / (1 + sum(map(len, levels.values())) / 30) * rng.normal(1, 0.01)
    seconds = 8192 * STEPS / tokens_per_s
    records = [start]
    for i in range(1, STEPS // EVERY + 1):
        step, loss = i * EVERY, final + 2.5 * ((i * EVERY) ** -0.5 - STEPS**-0.5) + rng.normal(0, 0.002)
        values = {
            "train/loss": loss - 0.05,
            "perf/tokens_per_s": tokens_per_s,
            "optim/lr": 1e-3,
            "optim/grad_norm": 0.5,
        }
        if i % VALIDATIONS == 0:
            loss = final if step == STEPS else loss
            values |= {"val/loss": loss, "val/bpb": loss / math.log(2), "val/loss_select": loss, "val/loss_whole": loss}
        records.append(MetricsRecord(step=step, values=values, t=start.t + round(1000 * seconds * step / STEPS)))
    result = _result(start, final, tokens_per_s, seconds)
    end = EndRecord(status=RunStatus.FINISHED, end_reason=RunEndReason.COMPLETED, step=STEPS, result=result)
    lines = [json.dumps(write_record(record)) for record in (*records, replace(end, t=records[-1].t))]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    write_result(folder / "result.json", result)
    write_unit_losses(folder, _units(final, rng))


def _start(config: Any, levels: dict[str, str], seed: int, number: int) -> StartRecord:
    content = dict(config)
    variant = {**content.pop("variant"), **levels}
    content |= {axis: {**content[axis], "_target_": f"gptx.{axis}.{level}"} for axis, level in levels.items()}
    return StartRecord(
        uid=f"{number:032x}",
        identity=f"{number:010x}",
        name="·".join([*levels.values(), "single", f"s{seed}"]),
        study="synthetic",
        validation=3,
        variant=variant,
        seed=seed,
        config={str(key): value for key, value in {**content, "seed": seed, "data_seed": seed}.items()},
        git=GitState(commit="c0ffee"),
        data=DataFacts(name="sotu", corpus_hash="f" * 64, tokenizer="byte", tokenizer_hash="e" * 64),
        n_params=820_000 + 10_000 * len(levels["attention"]),
        flops_per_token=5_000_000 + 200_000 * len(levels["attention"]) + 300_000 * len(levels["window"]),
        kv_bytes_per_token=4096 // (1 + ("mha", "gqa", "mqa", "mla", "gated").index(levels["attention"]) % 4),
        hardware=Hardware(device="cpu", cpu="AMD EPYC", cores=2, memory_bytes=8_000_000_000),
        dtype="float32",
        t=1_700_000_000_000 + 10**6 * number,
    )


def _result(start: StartRecord, loss: float, tokens_per_s: float, seconds: float) -> Result:
    return result_of(
        start,
        status=RunStatus.FINISHED,
        end_reason=RunEndReason.COMPLETED,
        **dict.fromkeys(("val_loss", "val_loss_select", "val_loss_whole", "val_loss_best"), loss),
        **dict.fromkeys(("val_bpb", "val_bpb_select", "val_bpb_whole", "val_bpb_best"), loss / math.log(2)),
        train_loss=loss - 0.05,
        val_accuracy=0.5,
        steps=STEPS,
        tokens=8192 * STEPS,
        tokens_per_s=tokens_per_s,
        seconds=seconds,
        peak_memory_bytes=6e8 - 1e7 * len(start.variant["window"]),
    )


def _units(loss: float, rng: np.random.Generator) -> UnitLosses:
    """Units whose difficulty all runs share, with a small part of each run; the report half has the run's loss."""
    hard = np.random.default_rng(7).normal(0, 0.4, UNITS)
    report = np.arange(UNITS) % 2 == 1
    nats = UNIT_TOKENS * (loss + hard - hard[report].mean() + rng.normal(0, 0.05, UNITS))
    tokens = np.full(UNITS, UNIT_TOKENS)
    return UnitLosses(
        step=STEPS,
        document=np.arange(UNITS),
        offset=np.zeros(UNITS, int),
        select=~report,
        report=report,
        nats=nats,
        tokens=tokens,
        size=tokens,
    )


if __name__ == "__main__":
    sys.exit(main())
