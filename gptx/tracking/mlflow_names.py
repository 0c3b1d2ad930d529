"""The names of a run's data in MLflow: params, tags, final metrics, description. Does not import mlflow."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from gptx.runs.metrics import METRICS
from gptx.runs.records import EndRecord, Record, Result, StartRecord

_NO_RESULT = ("tracking", "paths", "study", "force")  # keys of the config that do not change the result


def final(result: Result) -> Iterator[tuple[str, float]]:
    """The ``final/*`` metrics that ``result`` has, rounded."""
    for metric in METRICS:
        value = metric.value(result)
        if metric.mlflow and value is not None:
            yield f"final/{metric.mlflow}", round(float(value) * metric.scale, metric.digits)


def short_params(start: StartRecord) -> dict[str, str]:
    """{one-word name: value} of what a sweep usually varies: attention, pos, ..., seed."""
    named = {**start.variant, "seed": start.seed}
    return {key: str(value) for key, value in named.items() if value not in (None, "")}


def params(start: StartRecord) -> dict[str, str]:
    """Those of `short_params`, and the rest of the config under dotted names."""
    config = {key: value for key, value in start.config.items() if key not in _NO_RESULT}
    return {**dict(_leaves(config)), **short_params(start)}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif node not in (None, ""):
        text = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False, default=str)
        yield clean(prefix), text[:6000]


def tags(start: StartRecord) -> dict[str, str]:
    """The tags of a run that are set once and never change."""
    return {
        "gptx.identity": start.identity,
        "gptx.study": start.study,
        "gptx.variant": "·".join(str(value) for value in start.variant.values()),
        "mlflow.source.name": "gptx.run",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": start.git.commit,
    }


def note(start: StartRecord, last: Record, status: str, folder: str) -> str:
    """The run's description in Markdown: status, final metrics, the commands to resume and to generate."""
    lines = [f"**{status}** `{folder}`", ""]
    result = last.result if isinstance(last, EndRecord) else None
    if isinstance(last, EndRecord) and last.error:
        lines += [f"> {last.error}", ""]
    figures = list(final(result)) if result else []
    if figures:
        lines += [_row(name.removeprefix("final/") for name, _ in figures), _row("---:" for _ in figures)]
        lines += [_row(f"{value:.10g}" for _, value in figures), ""]
    lines += ["```sh", start.command or "gptx run"]
    lines += [f'gptx generate {shlex.quote(folder)} --prompt "The state of the union"', "```"]
    return "\n".join(lines)


def _row(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def clean(name: str) -> str:
    """MLflow takes letters, digits, _ - . space / and : in names, at most 250 characters."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]
