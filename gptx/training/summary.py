"""The output of `gptx run` when a run has finished."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from gptx.config.trust import own_modules
from gptx.runs.metrics import METRICS
from gptx.runs.records import Result


def show(result: Result, folder: Path, status: str) -> None:
    """Print the metrics, the sample and the folder of a run, and commands to use next."""
    console = Console(highlight=False)
    if result.sample:
        console.print(
            Panel(_printable(result.sample.strip()), title=f"sample after {result.steps:,} steps", title_align="left"),
            markup=False,
        )
    rows = {
        result.name: status,
        **{metric.title: metric.text(figure) for metric in METRICS if (figure := metric.value(result)) is not None},
        "best step": f"{result.best_step:,}",
        "folder": str(folder),
    }
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        console.print(f"{name:<{width}}  {value}", soft_wrap=True, markup=False)
    console.print("\nnext:", style="bold")
    quoted = shlex.quote(str(folder))
    trust = "".join(f" --trust {module}" for module in own_modules(result.config))
    for command in (
        f'gptx generate {quoted} --prompt "The state of the union"{trust}',
        f"gptx compare {shlex.quote(str(folder.parent))}",
        "gptx ui",
    ):
        console.print(f"  {command}", soft_wrap=True, markup=False)


def _printable(text: str) -> str:
    """Replace control characters, which a model may generate and a terminal would execute."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def brief(result: Result, folder: Path, status: str) -> None:
    """Print one line instead of the summary, for the runs of a sweep."""
    print(f"{status}: val loss {result.val_loss:.4f}, {result.val_bpb:.4f} bits/byte   {folder}", flush=True)
