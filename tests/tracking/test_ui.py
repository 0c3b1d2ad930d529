"""``python -m gptx.ui`` in a real process: the command, its server, and a browser that opens the printed links."""

import base64
import json
import math
import re
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from browser import chromium
from command import DEADLINE, ROOT, unused_port
from fake_runs import make_run

from gptx.tracking import mlflow_view, ui_server
from gptx.ui import main as ui_main

BPB = {("gqa", "rope"): 1.5, ("gqa", "alibi"): 2.0, ("mha", "rope"): 1.7, ("mha", "alibi"): 1.9}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The output of the command for eight runs; at the end Ctrl-C must end it and its child processes."""
    outputs = tmp_path_factory.mktemp("ui") / "outputs"
    for (attention, pos), bpb in BPB.items():
        for seed in range(2):
            make_run(outputs, attention=attention, pos=pos, seed=seed, bpb=bpb + 0.01 * seed)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "gptx.ui", "--outputs", str(outputs), "--port", str(port)]
        ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert ui.stdout is not None
        text = ""
        while "Ctrl-C to stop" not in text:
            line = ui.stdout.readline()
            assert line, f"it ended: {text}"
            text += line
        assert f":{port}/" not in text  # the port is in use, so the next free one is chosen
        yield text
    ends_with_its_children(ui, signal.SIGINT)


def ends_with_its_children(ui: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal to the command and check that it ends well and leaves no process."""
    children = psutil.Process(ui.pid).children(recursive=True)
    assert len(children) == 2
    ui.send_signal(number)
    assert ui.wait(DEADLINE) == 0
    assert ui.stdout is not None
    ui.stdout.close()
    assert psutil.wait_procs(children, timeout=30)[1] == []


@pytest.mark.full
def test_sigterm_ends_the_real_server_and_frees_its_port(tmp_path: Path) -> None:
    make_run(tmp_path / "outputs")
    command = [sys.executable, "-m", "gptx.ui", "--outputs", str(tmp_path / "outputs"), "--port", str(unused_port())]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert ui.stdout is not None
    text = ""
    while "Ctrl-C to stop" not in text:
        line = ui.stdout.readline()
        assert line, f"it ended: {text}"
        text += line
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", text)
    assert found is not None
    ends_with_its_children(ui, signal.SIGTERM)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(found[1])))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(1600, 1700) as driver:
        yield driver


def link(printed: str, kind: str) -> str:
    found = re.search(rf"{kind} +(http\S+)", printed)
    assert found is not None
    return found[1]


def shows(browser: Any, url: str, script: str, expected: Any) -> None:
    """Open a page and wait until JavaScript in it returns what is expected."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    if browser.current_url != url:
        browser.get(url)
    try:
        WebDriverWait(browser, DEADLINE).until(lambda b: b.execute_script(f"return {script}") == expected)
    except TimeoutException:
        assert browser.execute_script(f"return {script}") == expected


@pytest.mark.full
def test_table_is_sorted_and_grouped_and_shows_the_figures(printed: str, browser: Any) -> None:
    url = link(printed, "table")
    by_row = "(a, b) => a.closest('.ag-row').getAttribute('row-index') - b.closest('.ag-row').getAttribute('row-index')"

    def column(name: str) -> str:
        place = f'.ag-center-cols-container .ag-cell[col-id="{name}"]'
        return f"[...document.querySelectorAll('{place}')].sort({by_row}).map(cell => cell.innerText.trim())"

    best_first = sorted((bpb, *axes) for axes, bpb in BPB.items())
    for i, name in enumerate(["params.`attention`", "params.`pos`"]):  # a group shows no parameters
        shows(browser, url, column(name), [cell for row in best_first for cell in ("-", row[i + 1], row[i + 1])])
    runs = [text for bpb, *_ in best_first for text in (f"{bpb:g}", f"{bpb + 0.01:g}")]
    figures = column("metrics.`final/val_bpb`")
    shows(browser, url, f"{figures}.filter((_, i) => i % 3)", runs)
    means = f"{figures}.filter((_, i) => i % 3 == 0).map(cell => parseFloat(cell).toFixed(3))"
    shows(browser, url, means, [f"{bpb + 0.005:.3f}" for bpb, *_ in best_first])
    headers = "[...document.querySelectorAll('.ag-header-viewport .ag-header-cell')]"
    left_to_right = f"{headers}.sort((a, b) => a.ariaColIndex - b.ariaColIndex).map(cell => cell.innerText.trim())"
    first = ["attention", "pos", "final/val_bpb", "final/val_loss", "final/tokens_per_s"]
    shows(browser, url, f"{left_to_right}.slice(0, {len(first)})", first)
    visible = "document.querySelector('.ag-header-cell[col-id=\"metrics.`final/val_bpb`\"]').getBoundingClientRect()"
    shows(browser, url, f"{visible}.right < 1600", True)


@pytest.mark.full
def test_charts_show_each_variant_once(printed: str, browser: Any) -> None:
    url = link(printed, "charts")
    titles = ["final/tokens_per_s vs. final/val_bpb", "final/params vs. final/val_bpb", "final/tokens_per_s"]
    titles += ["val/bpb", "val/loss", "train/loss"]
    shows(browser, url, f"{titles!r}.filter(title => !document.body.innerText.includes(title))", [])
    shows(browser, url, "document.querySelectorAll('.barlayer .point').length", 4)
    colours = "new Set([...document.querySelectorAll('.barlayer .point path')].map(bar => bar.style.fill)).size"
    shows(browser, url, colours, 4)
    graphs = "[...document.querySelectorAll('.js-plotly-plot')]"
    axis = f"{graphs}.find(graph => graph.data.some(line => line.metricKey == 'val/bpb')).layout.yaxis.range"
    shows(browser, url, f"{axis}[0] > 1.4 && {axis}[1] < 2.5", True)


def state(runs: list[dict[str, str]]) -> dict[str, Any]:
    """The state of the saved view of runs with these parameters."""
    packed = json.loads(mlflow_view.view(runs))["state"].removeprefix("deflate;")
    return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


def test_view_shows_what_differs_and_groups_seeds() -> None:
    fixed = {"window": "full", "strategy": "single", "trainer.max_steps": "100"}
    runs = [
        {**fixed, "attention": attention, "attention.n_kv_head": heads, "optim.lr": rate, "seed": seed}
        for attention, heads in (("gqa", "2"), ("mha", "4"))
        for rate in ("0.001", "0.003")
        for seed in ("0", "1")
    ]
    found = state(runs)
    assert found["columnOrder"][:3] == ["params.`attention`", "params.`optim.lr`", "metrics.`final/val_bpb`"]
    keys = [key["groupByData"] for key in found["groupBy"]["groupByKeys"]]
    assert keys == ["attention", "optim.lr"] and found["groupBy"]["aggregateFunction"] == "average"
    one_seed = state([run for run in runs if run["seed"] == "0"])
    assert one_seed["groupBy"] is None and one_seed["columnOrder"][:2] == found["columnOrder"][:2]
    seeds = state(runs[:2])
    assert seeds["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "gptx.variant"}]


def charts(ranges: dict[str, mlflow_view.ChartRange | None]) -> dict[str, dict[str, Any]]:
    runs = [{"attention": attention, "seed": seed} for attention in ("gqa", "mha") for seed in "01"]
    packed = json.loads(mlflow_view.view(runs, ranges))["state"].removeprefix("deflate;")
    found = json.loads(zlib.decompress(base64.b64decode(packed)))["compareRunCharts"]
    return {chart["uuid"]: chart for chart in found}


def test_curves_are_shown_from_their_values_and_not_from_0() -> None:
    curves = [[(step, 2.0 + 50.0 / step) for step in range(1, 101)], [(50, 9.0), (100, math.nan)]]
    found = mlflow_view.ChartRange.of(curves)
    assert found is not None and 2.1 < found.low < 2.5 and 9.0 < found.high < 9.5, "without the steep start"
    assert mlflow_view.ChartRange.of([[(1, 2.0)], []]) is None and mlflow_view.ChartRange.of([]) is None
    shown = charts({"val/loss": found, "val/bpb": None})
    assert shown["val/loss"]["range"] == {"yMin": found.low, "yMax": found.high}
    assert "range" not in shown["val/bpb"] and "range" not in shown["train/loss"]
    assert [chart["metricKey"] for chart in shown.values() if chart["type"] == "BAR"] == ["final/tokens_per_s"]


def test_view_reads_all_pages_of_runs() -> None:
    class Page(list[int]):
        token: str | None = None

    def search(page_token: str = "0") -> Page:
        page = Page([int(page_token)])
        page.token = str(int(page_token) + 1) if page_token != "2" else None
        return page

    assert ui_server.every(search) == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow imports deprecated parts of sqlalchemy
def test_command_sends_runs_and_prints_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is replaced, because it takes long to start."""

    class Interrupted:
        def wait(self) -> int:
            raise KeyboardInterrupt

    @contextmanager
    def serve(*_: Any) -> Iterator[tuple[str, Interrupted]]:
        yield "http://127.0.0.1:5000", Interrupted()

    monkeypatch.setattr(ui_server, "serve", serve)
    make_run(tmp_path / "outputs")
    assert ui_main(["--outputs", str(tmp_path / "outputs")]) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 runs" in printed and "Ctrl-C to stop" in printed
    for kind in ("table", "charts"):
        assert link(printed, kind).startswith("http://127.0.0.1:5000/#/experiments/")


@pytest.mark.parametrize("folder_exists", [True, False])
def test_missing_runs_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder_exists: bool
) -> None:
    outputs = tmp_path / "outputs"
    if folder_exists:
        outputs.mkdir()
    for arguments in (["--outputs", str(outputs)], ["--outputs", str(outputs), "--uri", "nonsense"]):
        assert ui_main(arguments) == 2
        error = capsys.readouterr().err
        assert "gptx run makes one" in error and error.count("\n") == 1
    assert outputs.exists() == folder_exists
