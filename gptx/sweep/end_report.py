"""The report at the end of a sweep: the comparison of its runs, and every cell that did not finish with its reason."""

import logging
import sys
from collections.abc import Mapping, Sequence

from gptx.cli import log
from gptx.console import Console
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.final_runs import ComparedRuns
from gptx.sweep.state.folder import Sweep
from gptx.terminal import echo

MAX_TITLES = 10  # with the same reason
UNTIL_DECIDED = "seeds were added until the arms were decided; the output of the sweep has the verdicts"


def close(
    compared: ComparedRuns, cells: Sequence[Cell], failed: Mapping[str, str], dropped: Mapping[str, str], sweep: Sweep
) -> int:
    """Print the comparison of the finished runs, then every other cell with its reason, and write the report; returns
    the exit code.

    Args:
        failed: why runs failed, by title.
        dropped: why halving has dropped runs, by title.
    """
    if compared.runs:
        echo()
        show_comparison(sweep, compared)
    rejected = {cell.title: cell.rejection for cell in cells if cell.rejection}
    for status, reasons in (("dropped", dropped), ("rejected", rejected), ("failed", failed)):
        list_reasons(status, reasons, len(cells))
    return 1 if failed else 0


def show_comparison(sweep: Sweep, compared: ComparedRuns) -> None:
    """Print the comparison of runs of a sweep, or only their variants if they give no verdict, and write the report."""
    from gptx.compare.comparison import compare
    from gptx.compare.page import page
    from gptx.compare.run_rows import read_rows
    from gptx.compare.selection import FoundRuns
    from gptx.sweep.sweep_report import without_verdicts, write_report

    comparison = compare(FoundRuns(rows=tuple(read_rows(compared.runs))))
    Console().print(page(without_verdicts(comparison) if compared.no_verdict else comparison))
    if compared.no_verdict not in ("", UNTIL_DECIDED):  # those verdicts follow
        log.warning("%s", compared.no_verdict)
    write_report(sweep, comparison, compared.no_verdict)


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
