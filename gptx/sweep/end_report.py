"""The report at the end of a sweep: the comparison of its runs, and every cell that did not finish with its reason."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gptx.cli import log
from gptx.sweep.plan.cells import Cell
from gptx.terminal import echo

MAX_TITLES = 10  # with the same reason


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
    from gptx.compare.render import show

    if finished:
        echo()
        show(finished)
    rejected = {cell.title: cell.rejection for cell in cells if cell.rejection}
    for status, reasons in (("dropped", dropped or {}), ("rejected", rejected), ("failed", failed)):
        list_reasons(status, reasons, len(cells))
    return 1 if failed else 0


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
