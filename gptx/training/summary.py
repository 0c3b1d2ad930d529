"""The output of `gptx run` when a run has finished."""

import shlex
from pathlib import Path

from rich.panel import Panel

from gptx.config.trust import own_modules
from gptx.console import Console
from gptx.runs.metrics import METRICS
from gptx.runs.provenance import outputs_option
from gptx.runs.records import Result
from gptx.terminal import echo


def show(result: Result, folder: Path, status: str) -> None:
    """Print the metrics, the sample and the folder of a run, and commands to use next."""
    console = Console()
    if result.sample:
        title = f"sample after {result.steps:,} steps"
        console.print(Panel(result.sample.strip(), title=title, title_align="left"))
    rows = {
        result.name: status,
        **{metric.title: metric.text(figure) for metric in METRICS if (figure := metric.value(result)) is not None},
        "best step": f"{result.best_step:,}",
        "folder": str(folder),
    }
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        console.print(f"{name:<{width}}  {value}", soft_wrap=True)
    console.print("\nnext:", style="bold")
    quoted = shlex.quote(str(folder))
    trust = "".join(f" --trust {module}" for module in own_modules(result.config))
    for command in (
        f'gptx generate {quoted} --prompt "The state of the union"{trust}',
        f"gptx compare {shlex.quote(str(folder.parent))}",
        f"gptx ui{outputs_option(folder.parent.parent)}",
    ):
        console.print(f"  {command}", soft_wrap=True)


def brief(result: Result, folder: Path, status: str) -> None:
    """Print one line instead of the summary (``runtime.brief``)."""
    echo(f"{status}: val loss {result.val_loss:.4f}, {result.val_bpb:.4f} bits/byte   {folder}")
