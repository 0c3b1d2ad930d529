"""How long a sweep will take: from finished runs, or from a timed step."""

from pathlib import Path

import pytest
from fake_cells import fake_cell, fake_result
from hypothesis import given
from hypothesis import strategies as st

from gptx.cli import configure_logging
from gptx.sweep.plan.time_estimate import (
    STARTUP,
    TIMING,
    WORTH,
    RunTime,
    TimeEstimate,
    TimeEstimator,
    remaining_flops,
    total_seconds,
)

RUNS = st.lists(st.builds(RunTime, st.floats(0.1, 1e4), st.integers(1, 4)), min_size=1, max_size=20)


@given(RUNS, st.integers(1, 6))
def test_total_lies_between_its_bounds(runs: list[RunTime], jobs: int) -> None:
    """At least the longest run and the busy slots, at most all runs one after the other."""
    total, serial = total_seconds(runs, jobs), sum(run.seconds for run in runs)
    busy = sum(run.seconds * min(run.processes, jobs) for run in runs) / jobs
    assert max(busy, *(run.seconds for run in runs)) * 0.999 <= total <= serial * 1.001
    if jobs == 1:
        assert total == pytest.approx(serial)


def test_estimate_from_similar_finished_runs(tmp_path: Path) -> None:
    for seed, speed in enumerate((128.0, 256.0, 512.0)):
        fake_result(fake_cell(tmp_path, "pos=alibi", seed=seed), tokens_per_s=speed)
    fake_result(fake_cell(tmp_path, "pos=t5"), dtype="bfloat16", tokens_per_s=1e9)  # not comparable
    estimate = TimeEstimator(tmp_path, 2, here=False).estimate(fake_cell(tmp_path, "pos=rope"))
    tokens = 10 * 8 * 32 + 2 * 150 / 3  # of the steps and the validations, which have 150 tokens
    assert estimate.seconds == pytest.approx(STARTUP + tokens / 256)
    assert estimate.source == "3 finished runs" and estimate.processes == 1


def test_estimate_counts_only_remaining_steps(tmp_path: Path) -> None:
    interrupted = fake_cell(tmp_path, "pos=rope")
    assert interrupted.folder is not None
    full = remaining_flops(interrupted)
    (interrupted.folder.checkpoints / "step-00000005").mkdir(parents=True)
    assert remaining_flops(interrupted) == full / 2


def test_step_is_timed_if_no_run_is_known(tmp_path: Path, corpus: Path) -> None:
    cell = fake_cell(tmp_path, "data=text", f"data.path={corpus}", f"paths.data={tmp_path}")
    assert TimeEstimator(tmp_path, 1, here=False).estimate(cell) == TimeEstimate(None, 1)
    estimate = TimeEstimator(tmp_path, 1).estimate(cell)
    assert estimate.seconds is not None and estimate.seconds > STARTUP
    assert estimate.source == "a timed step"


@given(st.integers(1, 500), st.floats(1, 1e5))
def test_timing_is_limited(runs: int, seconds: float) -> None:
    """To a fraction of the sweep that follows, but for the first step; in a dry run, to a fixed time."""
    sweep, dry_run = TimeEstimator(Path("nowhere"), 2, runs=runs), TimeEstimator(Path("nowhere"), 2)
    assert sweep._may_time() and dry_run._may_time()
    for one in (sweep, dry_run):
        one.spent = min(TIMING, WORTH * seconds * runs / 2)
        one.estimated.append(seconds)
    assert not sweep._may_time()
    assert dry_run._may_time() == (dry_run.spent < TIMING)
    sweep.spent *= 0.99
    assert sweep._may_time()


def test_step_that_fails_is_timed_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cell = fake_cell(tmp_path, "data=text", "data.path=nowhere.txt", f"paths.data={tmp_path}")
    estimator = TimeEstimator(tmp_path, 1)
    configure_logging()
    assert estimator.estimate(cell) == estimator.estimate(cell) == TimeEstimate(None, 1)
    assert capfd.readouterr().err.count(f"no estimate of the time of {cell.title}: ") == 1
