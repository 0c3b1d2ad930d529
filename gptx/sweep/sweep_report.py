"""The report that a sweep leaves in its folder: a page, the tables as CSV, and the differences as a picture."""

from dataclasses import replace

from gptx.cli import log
from gptx.compare.comparison import Comparison
from gptx.compare.effect_tables import effects_frame
from gptx.compare.files import variants_csv
from gptx.compare.forest import forest
from gptx.compare.report.html_report import html_report
from gptx.compare.report.shown_arms import shown_arms
from gptx.compare.study_about import StudyAbout
from gptx.regular_files import refuse_link
from gptx.runs.atomic_files import write_bytes
from gptx.runs.sweep_runs import REPORT
from gptx.sweep.state.folder import Sweep
from gptx.terminal import echo


def without_verdicts(comparison: Comparison) -> Comparison:
    """The same runs without differences."""
    return replace(comparison, baseline=None, arms=(), effects=None, excluded=(), study=StudyAbout())


def write_report(sweep: Sweep, comparison: Comparison, no_verdict: str = "") -> None:
    """Write the files to the folder ``report`` of the sweep and print the path of the page. Nothing for a single arm; a
    problem is one line, because the result of the sweep has been printed already.

    Args:
        no_verdict: why the report has no verdicts; empty if it has.
    """
    if len(shown_arms(comparison)) < 2:
        return
    folder = sweep.path / REPORT
    try:
        refuse_link(folder)
        folder.mkdir(exist_ok=True)
        for name, content in _files(sweep, comparison, no_verdict).items():
            write_bytes(folder / name, content)
    except Exception as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        log.warning("no report was written (%s); gptx compare --html FILE writes one", why)
        return
    echo(f"\nreport: {folder / 'report.html'}")


def _files(sweep: Sweep, comparison: Comparison, no_verdict: str) -> dict[str, bytes]:
    plan = sweep.plan
    page = html_report(
        without_verdicts(comparison) if no_verdict else comparison,
        plan.study or sweep.name,
        [plan.command] if plan.command else [],
        no_verdict,
    )
    files = {"report.html": page.encode(), "variants.csv": variants_csv(comparison).encode()}
    if comparison.baseline is not None and not no_verdict:
        files["effects.csv"] = effects_frame(comparison).to_csv(index=False).encode()
        files["effects.png"] = forest(comparison, "png")
    return files
