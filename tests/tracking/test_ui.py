"""``python -m gptx.ui`` in a real process: the command, its server, and a browser that opens the printed links."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import DEADLINE, ROOT
from fake_runs import make_run

from gptx.tracking import ui_server
from gptx.ui import main as ui_main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
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
    children = psutil.Process(ui.pid).children(recursive=True)
    assert len(children) == 2
    ui.send_signal(signal.SIGINT)
    assert ui.wait(DEADLINE) == 0
    ui.stdout.close()
    assert psutil.wait_procs(children, timeout=30)[1] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium with chromedriver on this machine (Debian: apt-get install chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1900,1700"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


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
def test_table_is_sorted_and_has_the_columns(printed: str, browser: Any) -> None:
    url = link(printed, "table")
    by_row = "(a, b) => a.closest('.ag-row').getAttribute('row-index') - b.closest('.ag-row').getAttribute('row-index')"

    def column(name: str) -> str:
        place = f'.ag-center-cols-container .ag-cell[col-id="{name}"]'
        return f"[...document.querySelectorAll('{place}')].sort({by_row}).map(cell => cell.innerText.trim())"

    best_first = sorted((bpb + 0.01 * seed, *axes, seed) for axes, bpb in BPB.items() for seed in range(2))
    for i, name in enumerate(["metrics.`final/val_bpb`", "params.`attention`", "params.`pos`", "params.`seed`"]):
        shows(browser, url, column(name), [f"{row[i]:g}" if i == 0 else str(row[i]) for row in best_first])
    headers = "[...document.querySelectorAll('.ag-header-viewport .ag-header-cell')]"
    left_to_right = f"{headers}.sort((a, b) => a.ariaColIndex - b.ariaColIndex).map(cell => cell.innerText.trim())"
    first = ["attention", "pos", "window", "strategy", "seed", "final/val_bpb", "final/val_loss", "final/tok_s"]
    shows(browser, url, f"{left_to_right}.slice(0, {len(first)})", first)


@pytest.mark.full
def test_charts_show_all_runs(printed: str, browser: Any) -> None:
    url = link(printed, "charts")
    titles = ["Parallel Coordinates", "final/tok_s vs. final/val_bpb", "final/val_bpb", "final/tok_s"]
    titles += ["val/bpb", "val/loss", "train/loss"]
    shows(browser, url, f"{titles!r}.filter(title => !document.body.innerText.includes(title))", [])
    shows(browser, url, "document.querySelectorAll('.scatterlayer .points path').length >= 8", True)
    shows(browser, url, "document.querySelectorAll('.barlayer .point').length", 16)
    shows(browser, url, "document.querySelectorAll('.scatterlayer .js-line').length >= 24", True)


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
