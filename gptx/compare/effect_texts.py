"""The conclusion and the differences from the baseline as text: Markdown, LaTeX, and HTML for a notebook."""

import html
import re
from collections.abc import Collection, Sequence

from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import noise_floor, notes, remarks, sentence
from gptx.compare.effect_tables import EffectCells, cells_of, explained_columns
from gptx.compare.sections import SectionName, sections

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_LATEX |= {"·": r"\textperiodcentered{}", ">": r"$>$", "<": r"$<$", "|": r"\textbar{}"}
_LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
# an option of a command, or a number with a sign, which is not the exponent in 1e-05
_SPECIAL = re.compile(r"(?P<option>(?<![\w-])--[a-z][\w-]*)|(?P<number>(?<![\w.)-])[+-]\d[\d.,]*(?<=\d))")
_LONG = 24  # characters of a cell from which its column is wrapped
_WRAPPED = {
    "arm": 0.3,
    "arms": 0.4,
    "changes": 0.35,
    "level": 0.3,
    "size": 0.15,
    "note": 0.25,
}  # widths of columns of text, in parts of the line
_TEXT = ("verdict", "would help", "factor", "effect", "interaction")  # columns of words


def as_markdown(comparison: Comparison, names: Collection[SectionName] = ()) -> str:
    """The conclusion, the table, the notes and the warnings in Markdown, and the sections of these names."""
    parts = [
        *_paragraphs(comparison),
        _markdown_table(cells_of(comparison)),
        "\n".join(f"- {x}" for x in _lines(comparison)),
    ]
    for section in sections(comparison, names):
        listed = "\n".join(f"- {line}" for line in section.lines)
        parts += [f"**{section.title}**", _markdown_table(section.cells), listed]
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_table(cells: EffectCells) -> str:
    if not cells.rows:
        return ""
    rows = [cells.heads, tuple("---" for _ in cells.heads), *cells.rows]
    return "\n".join(f"| {' | '.join(_escaped(text, '|*') for text in row)} |" for row in rows)


def _lines(comparison: Comparison) -> list[str]:
    return [*notes(comparison), *explained_columns(comparison), *remarks(comparison)]


def _paragraphs(comparison: Comparison) -> list[str]:
    return [text for text in (noise_floor(comparison), sentence(comparison)) if text]


def _escaped(text: str, marks: str) -> str:
    return "".join(f"\\{letter}" if letter in marks else letter for letter in text)


def as_latex(comparison: Comparison, names: Collection[SectionName] = ()) -> str:
    """The table in LaTeX, with the conclusion as its caption and the notes and warnings below it, and a table for each
    of the sections of these names; they need the package booktabs."""
    tables = [_latex_table(" ".join(_paragraphs(comparison)), cells_of(comparison), _lines(comparison))]
    tables += [_latex_table(_sentence(one.title), one.cells, one.lines) for one in sections(comparison, names)]
    return "\n".join([r"% needs \usepackage{booktabs}", *tables]) + "\n"


def _latex_table(caption: str, cells: EffectCells, lines: Sequence[str]) -> str:
    notes = [
        r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize\raggedright",
        *(rf"{_latex(_sentence(line))}\par" for line in lines),
        r"\end{minipage}",
    ]
    head = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption)}}}"]
    return "\n".join([*head, *(_tabular(cells) if cells.rows else []), *(notes if lines else []), r"\end{table}"])


def _tabular(cells: EffectCells) -> list[str]:
    columns = "".join(_column(head, [row[i] for row in cells.rows]) for i, head in enumerate(cells.heads))
    rows = (rf"{' & '.join(map(_latex, row))} \\" for row in (cells.heads, *cells.rows))
    head, *body = rows
    return [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]


def _column(head: str, texts: Sequence[str]) -> str:
    """Columns of text are on the left, and wrapped if they are long; those of numbers are on the right."""
    if head not in (*_WRAPPED, *_TEXT):
        return "r"
    wrapped = head in _WRAPPED and max(map(len, texts)) > _LONG
    return rf"p{{{_WRAPPED[head]}\linewidth}}" if wrapped else "l"


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}{'' if line.endswith('.') else '.'}"


def _latex(text: str) -> str:
    parts, end = [], 0
    for found in _SPECIAL.finditer(text):
        parts.append(_latex_letters(text[end : found.start()]))
        option = found["option"]
        parts.append(rf"\texttt{{{option.replace('-', '{-}')}}}" if option else f"${found[0]}$")
        end = found.end()
    return "".join([*parts, _latex_letters(text[end:])])


def _latex_letters(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def as_html(comparison: Comparison) -> str:
    """The conclusion, the table, the notes and the warnings in HTML, for a notebook."""
    texts = "".join(f"<p>{html.escape(text)}</p>" for text in _paragraphs(comparison))
    parts = [texts, _html_table(cells_of(comparison)), _html_list(_lines(comparison))]
    for section in sections(comparison):
        parts += [f"<p><b>{html.escape(section.title)}</b></p>", _html_table(section.cells), _html_list(section.lines)]
    return "".join(parts)


def _html_table(cells: EffectCells) -> str:
    body = "".join(_html_row(row, "td") for row in cells.rows)
    return f"<table><thead>{_html_row(cells.heads, 'th')}</thead><tbody>{body}</tbody></table>"


def _html_list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in cells)}</tr>"
