"""The HTML report: its figures, its behaviour in a real browser, and that nothing from a run folder is run as code."""

import base64
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from test_compare import cli, put, result, started

from gptx.compare.comparison import Comparison, compare
from gptx.compare.report.chart_data import chart_data
from gptx.compare.report.curve_bands import MAX_POINTS
from gptx.compare.report.html_report import html_report
from gptx.compare.selection import find_runs

ATTACK = "</pre></script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'><!--page.js-->"
SIZES = {"trainer": {"batch_size": 8}, "model": {"context": 64}}
EFFECTS = {"learned": 0.0, "rope": -0.3, "alibi": -0.2}


def curve(given: dict[str, Any], last: int = 400, every: int = 20) -> list[dict[str, Any]]:
    """A journal whose losses fall to those of the result; one step takes a second."""
    start = started(given)[0]
    end = given["val_loss"] or 2.0
    losses = [(step, end + math.exp(-step / 60)) for step in range(0, last + 1, every)]
    values = [(step, {"val/loss": loss, "train/loss": loss - 0.1, "val/bpb": loss / 0.69}) for step, loss in losses]
    return [start, *({"t": 1 + 1000 * s, "kind": "metrics", "step": s, "values": v} for s, v in values)]


def study(root: Path, seeds: int = 3, effects: dict[str, float] | None = None, **over: Any) -> Path:
    """Finished runs with curves and a sample."""
    rng = random.Random(1)
    for seed in range(seeds):
        for pos, effect in (effects or EFFECTS).items():
            loss = 1.5 + effect + 0.01 * seed + rng.gauss(0, 1e-3)
            more: dict[str, Any] = {"val_loss": loss, "sample": f"A sample of {pos}.", "command": f"gptx run pos={pos}"}
            keys = over.get("keys", SIZES)
            given = result(seed, pos=pos, **more | {"versions": {"torch": "2.13.0"}} | over | {"keys": keys})
            put(root, given, curve(given), f"{len(list(root.glob('*/*')))}")
    return root


def diverged(root: Path) -> None:
    given = result(3, SIZES, pos="alibi", val_loss=None) | {
        "status": "failed",
        "end_reason": "diverged",
        "error": "no loss",
    }
    end = {"t": 10**6, "kind": "end", "status": "failed", "end_reason": "diverged", "step": 100, "error": "no loss"}
    put(root, given, [*curve(given, 100), end])


def unfinished(root: Path) -> None:
    given = result(4, SIZES, pos="rope")
    (put(root, given, curve(given, 200)) / "result.json").unlink()


def compared(root: Path) -> Comparison:
    return compare(find_runs(root), baseline="pos=learned")


# --- content


def test_command_writes_one_file_with_the_conclusion_and_the_commands(tmp_path: Path) -> None:
    diverged(study(tmp_path / "runs"))
    unfinished(tmp_path / "runs")
    file = tmp_path / "report.html"
    done = cli(tmp_path / "runs", "--html", file, "--baseline", "pos=learned")
    assert done.returncode == 0, done.stderr
    page = file.read_text(encoding="utf-8")
    assert 4_000_000 < len(page) < 6_000_000 and [one.name for one in tmp_path.iterdir() if one.is_file()] == [
        file.name
    ]
    texts = ["Compared with pos=learned", "Noise: two seeds", "better", "A sample of rope.", "gptx run pos=alibi"]
    texts += ["--baseline pos=learned", "not finished: 1 failed, 1 killed", "AMD EPYC", "2.13.0", "no loss"]
    assert [text for text in texts if text not in page] == []


def test_charts_show_the_figures_of_the_comparison(tmp_path: Path) -> None:
    diverged(study(tmp_path))
    comparison = compared(tmp_path)
    data = chart_data(comparison)
    assert data.forest is not None
    for row, one in zip(data.forest.rows, comparison.arms, strict=True):
        assert one.effect.interval is not None
        shown = (row.arm, row.estimate, row.low, row.high, row.verdict)
        assert shown == (
            one.arm.name,
            one.effect.estimate,
            one.effect.interval.low,
            one.effect.interval.high,
            one.effect.verdict,
        )
    first, *_, lost = data.curves
    assert (first.name, first.is_baseline, first.seeds) == ("pos=learned", True, 3)
    band = next(band for band in first.bands if band.metric == "val/loss")
    losses = [row.metrics["val_loss"] for row in comparison.baseline.rows]  # type: ignore[union-attr]
    last = math.exp(-400 / 60)
    assert band.mean[-1] == pytest.approx(sum(losses) / 3 + last, abs=1e-5)
    assert (band.low[-1], band.high[-1]) == pytest.approx((min(losses) + last, max(losses) + last), abs=1e-5)
    assert (band.step[-1], band.tokens[-1], band.seconds[-1]) == (400, 400 * 8 * 64, 400)
    assert band.flops[-1] == pytest.approx(400 * 8 * 64 * 5_060_000, rel=1e-5)
    assert lost.diverged and lost.name == "pos=alibi, seed 3" and lost.bands[0].step[-1] == 100
    points = {point.arm: point for point in data.points}
    assert set(points) == {"pos=learned", "pos=rope"}  # no mean of the runs of alibi that did not diverge
    assert points["pos=learned"].mean == pytest.approx(sum(losses) / 3)
    assert points["pos=learned"].costs["peak_memory_bytes"] == 612  # MB


def test_long_curves_are_thinned_and_times_of_shared_machines_are_not_shown(tmp_path: Path) -> None:
    given = result(0, other_runs=1)
    put(tmp_path, given, curve(given, 3000, 1))
    (only,) = chart_data(compare(find_runs(tmp_path))).curves
    for band in only.bands:
        assert len(band.step) == MAX_POINTS and (band.step[0], band.step[-1]) == (0, 3000)
        assert set(band.seconds) == {None}


@pytest.mark.parametrize(("arms", "seeds"), [(1, 1), (2, 1), (100, 2)])
def test_report_of_few_and_of_many_arms(tmp_path: Path, arms: int, seeds: int) -> None:
    for arm in range(arms):
        for seed in range(seeds):
            put(tmp_path, result(seed, keys={"optim": {"lr": 1e-3 + arm}}, val_loss=1.5 + arm / 100 + seed / 1000))
    comparison = compare(find_runs(tmp_path))
    page = html_report(comparison, "many")
    assert len(chart_data(comparison).points) == arms
    assert page.count("<tr>") > arms * (1 + seeds) and ('id="forest"' in page) == (arms > 1)


def test_text_of_run_folders_is_escaped(tmp_path: Path) -> None:
    page = html_report(compared(attacked(tmp_path)), ATTACK)
    assert "window.hacked" in page
    for part in ("<script>window.hacked", "<img src=x", "</script><script>window"):
        assert part not in page
    assert page.count("<script") == page.count("</script>") >= 3 and "\x1b" not in page and "\\x1b" in page


def test_control_characters_do_not_reach_the_charts(tmp_path: Path) -> None:
    """U+202E would turn the text after it around."""
    for seed in range(2):
        put(tmp_path, result(seed, keys={"optim": {"name": "ab\u202ecd"}}))
        put(tmp_path, result(seed, keys={"optim": {"name": "plain"}}))
    page = html_report(compare(find_runs(tmp_path)), "names")
    [data] = re.findall(r'<script id="chart-data"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert "ab\\\\u202ecd" in data and "ab\\u202ecd" not in data, "shown as text, not as a character"


def attacked(root: Path) -> Path:
    """Runs whose names, options, samples, commands, errors and versions try to run code."""
    more = {"name": ATTACK, "command": ATTACK, "sample": f"{ATTACK}\x1b", "versions": {ATTACK: ATTACK}}
    study(root, effects={"learned": 0.0, ATTACK: -0.3}, **more, git={"commit": ATTACK}, dtype=ATTACK, error=ATTACK)
    return root


def test_a_notebook_shows_the_table_and_the_picture(tmp_path: Path) -> None:
    shown = compared(attacked(tmp_path))._repr_html_()
    assert "<script" not in shown and shown.count("<table>") == 1 and shown.count("<img") == 1
    content = shown.partition("data:image/svg+xml;base64,")[2].partition('"')[0]
    assert base64.b64decode(content).startswith(b"<?xml")


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(1280, 900) as driver:
        yield driver


def opened(browser: Any, file: Path, page: str) -> None:
    """Open a report, and check that it reports no problem and requests nothing but itself."""
    file.write_text(page, encoding="utf-8")
    browser.get(file.as_uri())
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in sent if not url.startswith(("data:", "blob:"))] == [file.as_uri()]


def test_tables_sort_and_the_axis_switches(tmp_path: Path, browser: Any) -> None:
    diverged(study(tmp_path / "runs"))
    unfinished(tmp_path / "runs")
    opened(browser, tmp_path / "report.html", html_report(compared(tmp_path / "runs"), "study"))
    run = browser.execute_script
    cells = "[...document.querySelectorAll('#variants-table tbody tr')].map(row => row.cells[{}].textContent)"
    heads = run("return [...document.querySelectorAll('#variants-table thead button')].map(one => one.textContent)")
    column = heads.index("val loss")
    button = f"document.querySelectorAll('#variants-table thead button')[{column}]"
    for direction, best in (("ascending", "rope"), ("descending", "learned")):
        run(f"{button}.click()")
        values = [float(text.split()[0]) for text in run(f"return {cells.format(column)}")]
        assert values == sorted(values, reverse=direction == "descending")
        assert run(f"return {cells.format(0)}")[0] == best
        assert run(f"return {button}.parentElement.ariaSort") == direction
    assert run("return document.querySelectorAll('#forest .errorbars path.xerror').length") == 2
    lines = "document.getElementById('curve-chart').data.filter(one => one.name)"
    assert run(f"return {lines}.length") == 4  # three arms and the diverged run
    for axis, last in (("step", 400), ("tokens", 204_800), ("flops", 1.03629e12), ("seconds", 400)):
        run(f"document.querySelector('#curve-axis input[value={axis}]').click()")
        assert run(f"return {lines}[0].x.at(-1)") == last
        assert run("return document.querySelector('#curve-chart .xtitle').textContent").lower()[:4] in (
            axis,
            "toke",
            "flop",
            "step",
            "time",
        )
    assert run("return document.getElementById('cost-chart').data.length") >= 2
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_nothing_in_a_run_folder_is_run_in_a_browser(tmp_path: Path, browser: Any) -> None:
    opened(browser, tmp_path / "report.html", html_report(compared(attacked(tmp_path / "runs")), ATTACK))
    assert browser.execute_script("return [window.hacked, document.images.length]") == [None, 0]
    assert ATTACK in browser.execute_script("return document.querySelector('#samples').textContent")
    assert browser.execute_script("return document.querySelectorAll('#forest .errorbars path.xerror').length") == 1


def test_only_the_scripts_of_the_report_may_run(tmp_path: Path, browser: Any) -> None:
    """Should text ever escape the template, the content security policy stops it."""
    page = html_report(compared(study(tmp_path / "runs")), "study")
    file = tmp_path / "report.html"
    file.write_text(page.replace("<header>", f"<header>{ATTACK}", 1), encoding="utf-8")
    browser.get(file.as_uri())
    assert browser.execute_script("return [window.hacked, typeof Plotly]") == [None, "object"]
    browser.get_log("browser"), browser.get_log("performance")
