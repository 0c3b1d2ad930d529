"""Functions that the benchmarks share: tables for a terminal and for markdown, JSON files, facts about the machine."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gptx.hardware.description import describe_hardware

Row = Sequence[str]


def markdown_table(head: Row, rows: Iterable[Row], left: int = 2) -> str:
    """A markdown table. The first ``left`` columns are aligned to the left, the others to the right."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def terminal_table(
    head: Row, rows: Iterable[Row], left: int = 2, title: str | None = None, caption: str | None = None
) -> None:
    """Print a table. A row whose first cell is not empty starts a section, if other rows have an empty one."""
    rows = list(rows)
    table = Table(*head, title=title, caption=caption, caption_justify="left")
    for column in table.columns[left:]:
        column.justify = "right"
    sections = any(not row[0] for row in rows)
    for i, row in enumerate(rows):
        if sections and row[0] and i:
            table.add_section()
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else 100).print(table)


def write_json(path: Path | None, figures: Any) -> None:
    """Write the results as JSON, if a file is given."""
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def machine_facts(device: torch.device) -> dict[str, Any]:
    """The hardware and the version of torch, for a JSON file."""
    return {"hardware": asdict(describe_hardware(device)), "torch": torch.__version__}


def machine_text(device: torch.device) -> str:
    """The hardware and the version of torch, for a caption."""
    machine = describe_hardware(device)
    threads = torch.get_num_threads()
    count = f", {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else ""
    return f"{machine.name}{count}, torch {torch.__version__}"
