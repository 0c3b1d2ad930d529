"""The report at the end of a sweep: the comparison of its runs, and every cell that did not finish with its reason."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gptx.cli import log
from gptx.console import Console
from gptx.sweep.plan.cells import Cell
from gptx.terminal import echo

MAX_TITLES = 10  # with the same reason


def close(
    finished: Sequence[Path],
    cells: Sequence[Cell],
    failed: Mapping[str, str],
    dropped: Mapping[str, str] | None = None,
    *,
    is_sequential: bool = False,
) -> int:
    """Print the comparison of the finished runs, then every other cell with its reason; returns the exit code.

    Args:
        failed: why runs failed, by title.
        dropped: why halving has dropped runs, by title.
        is_sequential: seeds were added until the arms were decided, so only the variants are shown; verdicts for a
            fixed number of seeds would be too sure.
    """
    from gptx.compare.page import show

    if finished:
        echo()
        (show_variants if is_sequential else show)(finished)
    rejected = {cell.title: cell.rejection for cell in cells if cell.rejection}
    for status, reasons in (("dropped", dropped or {}), ("rejected", rejected), ("failed", failed)):
        list_reasons(status, reasons, len(cells))
    return 1 if failed else 0


def show_variants(finished: Sequence[Path]) -> None:
    """Print the table of variants and its warnings, without differences from a baseline."""
    from gptx.compare.comparison import compare
    from gptx.compare.page import page
    from gptx.compare.run_rows import read_rows
    from gptx.compare.selection import FoundRuns
    from gptx.compare.study_about import StudyAbout

    comparison = compare(FoundRuns(rows=tuple(read_rows(finished))))
    Console().print(page(replace(comparison, baseline=None, arms=(), effects=None, excluded=(), study=StudyAbout())))


def list_reasons(status: str, reasons: Mapping[str, str], total: int) -> None:
    """Print to stderr every title with its reason, titles with the same reason together; nothing if there are none."""
    if not reasons:
        return
    lines = [f"{len(reasons)} of {total} {status}:"]
    for reason in dict.fromkeys(reasons.values()):
        titles = [title for title, its_reason in reasons.items() if its_reason == reason]
        lines += [f"  {title}" for title in titles[:MAX_TITLES]]
        lines += [f"  and {len(titles) - MAX_TITLES} more"] if len(titles) > MAX_TITLES else []
        lines += [f"    {reason}"] if reason else []
    echo(file=sys.stderr)
    log.log(logging.ERROR if status == "failed" else logging.WARNING, "%s", "\n".join(lines))
