"""Steps of every sweep: follow its runs in MLflow, then compare them and list those that did not finish."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from gptx.cli import log
from gptx.config.plain_dict import plain_dict
from gptx.sweep.plan.cells import Cell
from gptx.tracking.follower import Follower


@contextmanager
def following(options: DictConfig, folders: Sequence[Path]) -> Iterator[Callable[[Path], None]]:
    """Show runs in MLflow while they train. Yields a function that adds the folder of another run."""
    follower = Follower.start(folders, plain_dict(options)["tracking"], Path(options.paths.outputs))
    try:
        yield follower.add if follower else lambda folder: None
    finally:
        warning = follower.finish() if follower else None
        if warning:
            log.warning("%s", warning)


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
        print()
        show(finished)
    rejected = {cell.title: cell.rejection for cell in cells if cell.rejection}
    for status, reasons in (("dropped", dropped or {}), ("rejected", rejected), ("failed", failed)):
        list_reasons(status, reasons, len(cells))
    return 1 if failed else 0


def list_reasons(status: str, reasons: Mapping[str, str], total: int) -> None:
    """Print to stderr every title with its reason; print nothing if there are none."""
    if reasons:
        lines = (f"  {title}\n    {reason}" for title, reason in reasons.items())
        print(f"\n{len(reasons)} of {total} {status}:", *lines, sep="\n", file=sys.stderr)
