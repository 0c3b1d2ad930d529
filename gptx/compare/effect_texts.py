"""The conclusion and the differences from the baseline as text: Markdown, LaTeX, and HTML for a notebook."""

import html
from collections.abc import Sequence

from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import noise_floor, notes, sentence
from gptx.compare.effect_tables import cells_of, explained_columns


def as_markdown(comparison: Comparison) -> str:
    """The conclusion, the table and the notes in Markdown."""
    cells = cells_of(comparison)
    rows = [cells.heads, tuple("---" for _ in cells.heads), *cells.rows]
    table = "\n".join(f"| {' | '.join(_escaped(text, '|') for text in row)} |" for row in rows)
    return "\n\n".join([*_paragraphs(comparison), table, _list(comparison)]) + "\n"


def _list(comparison: Comparison) -> str:
    return "\n".join(f"- {line}" for line in (*notes(comparison), *explained_columns(comparison), *comparison.excluded))


def _paragraphs(comparison: Comparison) -> list[str]:
    return [text for text in (noise_floor(comparison), sentence(comparison)) if text]


def _escaped(text: str, marks: str) -> str:
    return "".join(f"\\{letter}" if letter in marks else letter for letter in text)


def as_latex(comparison: Comparison) -> str:
    """The table in LaTeX, with the conclusion as its caption; it needs the package booktabs."""
    cells = cells_of(comparison)
    body = "\n".join(f"{' & '.join(map(_latex, row))} \\\\" for row in cells.rows)
    caption = " ".join(_latex(line) for line in (*_paragraphs(comparison), *map(_sentence, notes(comparison))))
    columns = "l" + "r" * (len(cells.heads) - 1)
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{' & '.join(map(_latex, cells.heads))} \\\\\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {"·": r"\textperiodcentered{}", ">": r"$>$", "<": r"$<$"}
    plain = "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
    return f"${plain}$" if plain[:1] in "+-" and plain[1:2].isdigit() and " " not in plain else plain


def as_html(comparison: Comparison) -> str:
    """The conclusion, the table and the notes in HTML, for a notebook."""
    cells = cells_of(comparison)
    head = _html_row(cells.heads, "th")
    body = "".join(_html_row(row, "td") for row in cells.rows)
    texts = "".join(f"<p>{html.escape(text)}</p>" for text in _paragraphs(comparison))
    lines = (*notes(comparison), *explained_columns(comparison), *comparison.excluded, *comparison.warnings)
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"{texts}<table><thead>{head}</thead><tbody>{body}</tbody></table><ul>{listed}</ul>"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in cells)}</tr>"
