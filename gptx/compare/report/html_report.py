"""The comparison as one HTML file: text and tables by a template, charts by plotly.js, which the file contains.

Run folders may come from others, so names, samples and errors are data: the template escapes them, the charts get them
as JSON, and the browser runs only the two scripts whose hashes the page's content security policy names. The policy
also forbids every request to a network.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files

from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import noise_floor, notes, remarks, sentence
from gptx.compare.costs import MOST_ARMS
from gptx.compare.effect_tables import explained_columns
from gptx.compare.report.chart_data import chart_data
from gptx.compare.report.run_facts import commands, run_facts, samples
from gptx.compare.report.shown_arms import shown_arms
from gptx.compare.report.sortable_tables import SortableTable, effects_table, runs_table, section_table, variants_table
from gptx.compare.section import Section
from gptx.compare.sections import SectionName, sections
from gptx.compare.study_answer import lines
from gptx.runs.json_codec import to_json
from gptx.terminal import visible


def html_report(comparison: Comparison, title: str, made_by: Sequence[str] = (), lead: str = "") -> str:
    """The report as the content of a file, about 5 MB, most of which is plotly.js.

    Args:
        title: of the page, such as the name of the study.
        made_by: the commands that made the runs and the report; those of the single runs are added.
        lead: the first sentence; "": the conclusion.
    """
    from jinja2 import Environment, StrictUndefined

    library, script = _plotly_js(), _own("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_own("page.html"))
    arms, rows = shown_arms(comparison), comparison.found.rows
    page = template.render(
        title=title,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        policy=_policy(library, script),
        style=_own("page.css"),
        sentence=lead or sentence(comparison),
        noise=noise_floor(comparison),
        study=lines(comparison),
        notes=[*notes(comparison), *explained_columns(comparison)],
        remarks=remarks(comparison),
        compared=comparison.baseline is not None,
        factors=_sections(comparison, SectionName.FACTORS),
        has_grid=bool(comparison.grid and comparison.grid.effects.panels),
        reach=_sections(comparison, SectionName.REACH),
        pairs=_sections(comparison, SectionName.PAIRS) if len(comparison.compared) <= MOST_ARMS else [],
        effects=effects_table(comparison),
        variants=variants_table(comparison),
        runs=runs_table(rows),
        samples=samples(arms),
        made_by=list(made_by),
        commands=commands(rows),
        facts=run_facts(rows),
        data=_as_json(comparison),
    )
    return visible(page).replace(_LIBRARY_PLACE, library).replace(_SCRIPT_PLACE, script)


def _sections(comparison: Comparison, name: SectionName) -> list[tuple[Section, SortableTable]]:
    """The section with this name and what belongs to it, each with its table."""
    in_short = {section.title for section in sections(comparison)} if name is not SectionName.FACTORS else set()
    found = [one for one in sections(comparison, [name]) if one.title not in in_short]
    return [(one, section_table(one, f"{name}-{i}")) for i, one in enumerate(found)]


# Scripts are inserted after the template, which would escape them. A text of a run cannot contain these marks: its
# angle brackets are escaped.
_LIBRARY_PLACE, _SCRIPT_PLACE = "<!--plotly.js-->", "<!--page.js-->"


def _own(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _plotly_js() -> str:
    return (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")


def _policy(*scripts: str) -> str:
    """The content security policy: only these scripts run, and nothing is requested from a network."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _as_json(comparison: Comparison) -> str:
    """The charts as JSON in which no character can end the script element."""
    data = _visible_texts(to_json(chart_data(comparison)))
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visible_texts(value: object) -> object:
    """The JSON value with control characters of its texts made visible: names come from run folders."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {key: _visible_texts(item) for key, item in value.items()}
    return [_visible_texts(item) for item in value] if isinstance(value, list | tuple) else value
