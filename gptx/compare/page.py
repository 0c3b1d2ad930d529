"""The comparison for the terminal: the conclusion, the differences from the baseline, the variants, and warnings."""

from collections.abc import Collection, Iterable
from pathlib import Path

import rich.console
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table

from gptx.compare.comparability import has_one_seed
from gptx.compare.comparison import Comparison, compare
from gptx.compare.conclusion import noise_floor, notes, sentence
from gptx.compare.effect_tables import FittingEffects, cells_table, explained_columns
from gptx.compare.formatting import SHOWN, count, titled
from gptx.compare.render import FittingTable, can_be_ranked, ordered
from gptx.compare.run_rows import read_rows, unfinished
from gptx.compare.sections import SectionName, more, sections
from gptx.compare.selection import FoundRuns
from gptx.compare.study_answer import lines
from gptx.console import Console, VisibleText
from gptx.runs import journal


def show(
    paths: Iterable[Path | str],
    console: rich.console.Console | None = None,
    *,
    sort: str = "val_bpb",
    all_keys: bool = False,
    include_unfinished: bool = False,
) -> Comparison:
    """Print the comparison of run folders, or of all runs below the paths.

    Missing, unfinished and damaged runs are reported in the output.

    Raises:
        GptxError: ``sort`` is not a column.
    """
    rows = read_rows(run for path in paths for run in (list(journal.runs(Path(path))) or [Path(path)]))
    comparison = compare(FoundRuns(rows=tuple(rows)), all_keys=all_keys, include_unfinished=include_unfinished)
    (console or Console()).print(page(comparison, sort))
    return comparison


def page(comparison: Comparison, sort: str = "val_bpb", names: Collection[SectionName] = ()) -> Group:
    """The conclusion, if there are arms to compare, with the sections of these names; then one table of variants for
    each corpus, because losses on different texts are not comparable; then warnings and other runs."""
    summary = ordered(comparison.variants, sort)
    parts = _conclusion(comparison, names)
    corpora = list(dict.fromkeys(summary["corpus_hash"]))
    for corpus in corpora:
        part, title = titled(summary, str(corpus)) if len(corpora) > 1 else (summary, "")
        parts += [*([VisibleText()] if parts else []), FittingTable(part, title)]
    if len(summary):
        parts.append(_Legend(comparison))
    if comparison.warnings:
        warnings = Table.grid(padding=(0, 1))
        for line in comparison.warnings:
            warnings.add_row(VisibleText("!", "yellow bold"), VisibleText(line, "yellow", overflow="fold"))
        parts += [VisibleText(), warnings]
    if rest := unfinished(comparison.found.rows):
        where = "unfinished, in separate rows" if "status" in summary else "not in the table"
        parts.append(VisibleText(f"{where}: {rest}"))
    return Group(*parts, *(VisibleText(line) for line in comparison.found.left_out))


def _conclusion(comparison: Comparison, names: Collection[SectionName]) -> list[RenderableType]:
    """What the runs show about the arms; nothing if fewer than two can be compared."""
    parts: list[RenderableType] = []
    if comparison.baseline is None and comparison.excluded:
        parts.append(VisibleText(sentence(comparison), "bold"))
    elif comparison.baseline is not None:
        if noise := noise_floor(comparison):
            parts.append(VisibleText(noise))
        parts += [VisibleText(sentence(comparison), "bold"), VisibleText(), FittingEffects(comparison)]
        parts += [VisibleText(line, "dim") for line in (*notes(comparison), *explained_columns(comparison))]
    lines_of_doubt = (*comparison.excluded, *comparison.strategies.suspected)
    parts += [VisibleText(f"! {line}", "yellow") for line in lines_of_doubt]
    for section in sections(comparison, names):
        parts += [VisibleText(), VisibleText(section.title, "bold"), *(VisibleText(line) for line in section.lines)]
        parts += [cells_table(section.cells)] if section.cells.rows else []
    if rest := more(comparison, names):
        parts.append(VisibleText(rest, "dim"))
    if answer := lines(comparison):
        parts += [VisibleText(), *(VisibleText(line) for line in answer)]
    return parts


class _Legend:
    """The line below the table of variants. It explains bold figures where they can be seen."""

    def __init__(self, comparison: Comparison) -> None:
        summary = comparison.variants
        self.size = f"{count(len(summary), 'variant')}, {count(int(summary['n'].sum()), 'run')}"
        self.one_seed = has_one_seed(summary)
        self.spread = "mean ±sample standard deviation over n seeds"
        if not (summary["n"] > 1).any():
            self.spread = "one seed each, which decides nothing: deviations are unknown"
        self.has_best = len(summary) > 1 and any(can_be_ranked(summary, metric) for metric in SHOWN)

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        parts = [self.size, self.spread]
        if self.has_best and (console.is_terminal or console.record):
            why = ", not of losses and speeds, because n=1 decides nothing" if self.one_seed else ""
            parts.append(f"bold: best mean of the column{why}")
        yield VisibleText("\n" + " · ".join(parts), "dim")
