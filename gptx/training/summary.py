"""The output of `gptx run` when a run has finished."""

import os
import sys
from pathlib import Path

from rich.panel import Panel

from gptx.config.overrides import own_dirs
from gptx.config.trust import own_modules
from gptx.console import Console
from gptx.runs.metrics import BY_KEY, METRICS, VIEWS, Metric
from gptx.runs.provenance import outputs_option
from gptx.runs.records import Result
from gptx.terminal import echo, path_text, shell_words


def show(result: Result, folder: Path, status: str) -> None:
    """Print the metrics, the sample and the folder of a run, and commands to use next."""
    console = Console()
    if result.sample:
        title = f"sample after {result.steps:,} steps"
        console.print(Panel(result.sample.strip(), title=title, title_align="left"))
    rows = [(result.name, status)]
    for metric in METRICS:
        value = metric.value(result)
        if value is not None and not metric.view:
            others = _views(metric, result)
            rows.append((metric.title, metric.text(value) + (", report half" if others else "")))
            rows += [("", others)] if others else []
    rows += [("best step", f"{result.best_step:,}"), ("folder", path_text(folder))]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        console.print(f"{name:<{width}}  {text}", soft_wrap=True)
    console.print("\nnext:", style="bold")
    trust = _trust_options(result)
    for command in (
        f'gptx generate {shell_words([str(folder)])} --prompt "The state of the union"{trust}',
        f"gptx compare {shell_words([str(folder.parent)])}",
        f"gptx ui{outputs_option(folder.parent.parent)}",
    ):
        console.print(f"  {command}", soft_wrap=True)


def _views(metric: Metric, result: Result) -> str:
    """The other views of a metric, such as ``selection half 3.0512, whole 3.0580``; "" if it has no more than one."""
    if f"{metric.key}_whole" not in BY_KEY:
        return ""
    found = ((name, BY_KEY.get(f"{metric.key}_{view}")) for view, name in VIEWS.items())
    values = ((name, view, view.value(result)) for name, view in found if view)
    return ", ".join(f"{name} {value:.{view.digits}f}" for name, view, value in values if value is not None)


def _trust_options(result: Result) -> str:
    """The options with which a command loads the run: the folder of the user's options, or else their modules."""
    modules = own_modules(result.config)
    folders = [os.path.relpath(folder) for folder in own_dirs(sys.argv[1:])] if modules else []
    found = [("--config-dir", folder) for folder in folders] or [("--trust", module) for module in modules]
    return "".join(f" {shell_words(one)}" for one in found)


def brief(result: Result, folder: Path, status: str) -> None:
    """Print one line instead of the summary (``runtime.brief``)."""
    echo(f"{status}: val loss {result.val_loss:.4f}, {result.val_bpb:.4f} bits/byte   {path_text(folder)}")
