"""The report at the end of a sweep: the comparison of its runs, and every cell that did not finish with its reason."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gptx.sweep.plan.cells import Cell
from gptx.terminal import echo


def close(
    finished: Sequence[Path],
    cells: Sequence[Cell],
    failed: Mapping[str, str],
    dropped: Mapping[str, str] | None = None,
) -> int:
    """Print the comparison of the finished runs, then every other cell with its reason; returns the exit code.

    Args:
        failed: why runs failed, by title.
        dropped: why halving has dropped runs, by title.
    """
    from gptx.compare.page import show

    if finished:
        echo()
        show(finished)
    rejected = {cell.title: cell.rejection for cell in cells if cell.rejection}
    for status, reasons in (("dropped", dropped or {}), ("rejected", rejected), ("failed", failed)):
        list_reasons(status, reasons, len(cells))
    return 1 if failed else 0


def list_reasons(status: str, reasons: Mapping[str, str], total: int) -> None:
    """Print to stderr every title with its reason; print nothing if there are none."""
    if reasons:
        lines = (f"  {title}\n    {reason}" for title, reason in reasons.items())
        echo(f"\n{len(reasons)} of {total} {status}:", *lines, file=sys.stderr)
