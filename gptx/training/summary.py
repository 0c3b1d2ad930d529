"""The output of `gptx run` when a run has finished."""

import shlex
from pathlib import Path

from rich.panel import Panel

from gptx.config.trust import own_modules
from gptx.console import Console
from gptx.runs.metrics import BY_KEY, METRICS, VIEWS, Metric
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
        **{metric.title: text for metric in METRICS if not metric.view and (text := _text(metric, result))},
        "best step": f"{result.best_step:,}",
        "folder": str(folder),
    }
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        console.print(f"{name:<{width}}  {value}", soft_wrap=True)
    console.print("\nnext:", style="bold")
    quoted, outputs = shlex.quote(str(folder)), folder.parent.parent
    trust = "".join(f" --trust {module}" for module in own_modules(result.config))
    for command in (
        f'gptx generate {quoted} --prompt "The state of the union"{trust}',
        f"gptx compare {shlex.quote(str(folder.parent))}",
        " ".join(["gptx ui", *([] if outputs == Path("outputs") else ["--outputs", shlex.quote(str(outputs))])]),
    ):
        console.print(f"  {command}", soft_wrap=True)


def _text(metric: Metric, result: Result) -> str:
    """The value of a metric and of its other views; "" if it was not measured."""
    value = metric.value(result)
    if value is None:
        return ""
    views = {name: BY_KEY.get(f"{metric.key}_{view}") for view, name in VIEWS.items()}
    found = [(name, view, view.value(result)) for name, view in views.items() if view]
    others = [f"{name} {view.text(shown).split()[0]}" for name, view, shown in found if shown is not None]
    return metric.text(value) + (f"   report half; {', '.join(others)}" if others else "")


def brief(result: Result, folder: Path, status: str) -> None:
    """Print one line instead of the summary, for the runs of a sweep."""
    echo(f"{status}: val loss {result.val_loss:.4f}, {result.val_bpb:.4f} bits/byte   {folder}")
