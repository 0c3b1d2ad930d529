"""The end of a run, as a person reads it."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from gptx.runs.metrics import METRICS
from gptx.runs.records import Result


def show(result: Result, folder: Path, how: str) -> None:
    """Print a run's figures, its sample, its folder and the commands that go on from it."""
    console = Console(highlight=False)
    if result.sample:
        console.print(
            Panel(result.sample.strip(), title=f"sample after {result.steps:,} steps", title_align="left"),
            markup=False,
        )
    rows = {
        f"{result.name}": how,
        **{metric.title: metric.text(figure) for metric in METRICS if (figure := metric.value(result)) is not None},
        "best step": f"{result.best_step:,}",
        "folder": str(folder),
    }
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        console.print(f"{name:<{width}}  {value}", soft_wrap=True, markup=False)
    console.print("\nnext:", style="bold")
    place = shlex.quote(str(folder))
    for command in (
        f'python -m gptx.generate {place} --prompt "The state of the union"',
        f"python -m gptx.compare {shlex.quote(str(folder.parent))}",
        "python -m gptx.ui",
    ):
        console.print(f"  {command}", soft_wrap=True, markup=False)


def brief(result: Result, folder: Path, how: str) -> None:
    """The same in one line, for a run among many."""
    print(f"{how}: val loss {result.val_loss:.4f}, {result.val_bpb:.4f} bits/byte   {folder}", flush=True)
