"""The MLflow server behind ``gptx ui``, and the links to a study's saved view."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from gptx.errors import GptxError, RunFailed
from gptx.regular_files import open_regular
from gptx.runs import journal
from gptx.terminal import echo
from gptx.tracking import mlflow_view
from gptx.tracking.mlflow_connection import FOLDER, Store, store_uri
from gptx.tracking.sync import sync

_STOP_TIMEOUT = 2.0  # seconds that the server has to end its connections
_START_TIMEOUT = 120.0  # seconds until the server must answer


def show_ui(outputs: Path, uri: str, host: str, port: int, *, send: bool) -> None:
    """Print the links to each study's saved view, and run an MLflow server until it ends if the store is a database.

    Args:
        uri: MLflow server or database; empty: the database under ``outputs``.
        port: the first port to try; if it is in use, the next ones are tried.
        send: whether to send new records of the journals first.

    Raises:
        GptxError: there is no run.
        RunFailed: the server ended.
    """
    no_run = GptxError(f"no run in {outputs}; gptx run makes one")
    if not (uri or outputs.is_dir()) or (send and not any(journal.runs(outputs))):
        raise no_run
    if send:
        sync(outputs, uri)
    store = Store(outputs, uri)
    experiments = write_views(store)
    if not experiments:
        raise no_run
    if store.uri.startswith("http"):
        show_links(store.uri.rstrip("/"), experiments)
        return
    port = free_port(host, port)
    echo(f"starting the MLflow UI on port {port} ...")
    with serve(outputs, store_uri(outputs, uri), host, port) as (base, server):
        show_links(base, experiments)
        echo("\nPress Ctrl-C to stop.")
        raise RunFailed(f"the MLflow server ended with code {server.wait()}")


def write_views(store: Store) -> dict[str, str]:
    """Save the view of every experiment that has runs of gptx.

    Returns:
        {experiment name: experiment id}, newest first.
    """
    found = {}
    for experiment in every(store.client.search_experiments):
        ids, query = [experiment.experiment_id], "tags.`gptx.uid` != ''"
        runs = every(partial(store.client.search_runs, ids, query, max_results=1000))
        if runs:
            value = mlflow_view.view((run.data.params for run in runs), _ranges(store, runs))
            store.client.set_experiment_tag(experiment.experiment_id, mlflow_view.TAG, value)
            found[experiment.name] = (max(run.info.start_time for run in runs), experiment.experiment_id)
    return {name: found[name][1] for name in sorted(found, key=lambda name: found[name][0], reverse=True)}


def _ranges(store: Store, runs: list[Any]) -> dict[str, mlflow_view.ChartRange | None]:
    """The range of each curve's chart; none while a run is trained, because its curve will leave the range."""
    if any(run.info.status == "RUNNING" for run in runs):
        return {}
    best = sorted(runs, key=lambda run: run.data.metrics.get("final/val_bpb", math.inf))[: mlflow_view.RUNS]

    def curve(run: Any, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in store.client.get_metric_history(run.info.run_id, key)]

    return {key: mlflow_view.ChartRange.of(curve(run, key) for run in best) for key in mlflow_view.CURVES}


def every(search: Callable[..., Any]) -> list[Any]:
    """All pages of what a search of MLflow finds."""
    page = search()
    found = list(page)
    while page.token:
        page = search(page_token=page.token)
        found += page
    return found


@contextmanager
def serve(outputs: Path, uri: str, host: str, port: int) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run an MLflow server on a database within a ``with`` block. Yields its address and its process once it answers.

    Raises:
        RunFailed: the server ended or did not answer in time.
    """
    folder = (outputs / FOLDER).resolve()
    log = folder / "ui.log"
    server = _start_server(folder, uri, host, port, log)
    try:
        base = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        _wait_for_answer(server, base, port, log)
        yield base, server
    finally:
        _stop(server)


def _start_server(folder: Path, uri: str, host: str, port: int, log: Path) -> "subprocess.Popen[bytes]":
    """Start MLflow's server in its own session. ``folder``: its working directory, which holds the artifacts."""
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    if uri == store_uri(folder.parent, ""):
        uri = "sqlite:///mlflow.db"  # in the working directory: no character of its path has a meaning in an address
    command += ["--backend-store-uri", uri, "--artifacts-destination", (folder / "artifacts").as_uri()]
    env = {**os.environ, "PYTHONSAFEPATH": "1"}  # modules are not imported from the working directory
    env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # otherwise ten processes that need 1.1 GB
    null = subprocess.DEVNULL
    with open_regular(log, "wb") as file:
        return subprocess.Popen(
            command, stdin=null, stdout=file, stderr=file, env=env, cwd=folder, start_new_session=True
        )


def _wait_for_answer(server: "subprocess.Popen[bytes]", base: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RunFailed(f"the MLflow server ended with code {server.returncode}; see {log}")
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{base}/health", timeout=5):
            if _listens(server, port):  # otherwise another process took the port
                return
        time.sleep(0.1)
    raise RunFailed(f"the MLflow server did not answer within {_START_TIMEOUT:.0f} s; see {log}")


def _listens(server: "subprocess.Popen[bytes]", port: int) -> bool:
    """Whether this server or one of its workers listens on the port."""
    try:
        first = psutil.Process(server.pid)
        family = [first, *first.children(recursive=True)]
        return any(c.status == "LISTEN" and c.laddr.port == port for p in family for c in p.net_connections("tcp"))
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # some systems do not permit the query
        return True


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server and its workers, which form a process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(_STOP_TIMEOUT)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def free_port(host: str, port: int) -> int:
    """``port``, or the next one that is free.

    Raises:
        GptxError: 50 ports are in use.
    """
    for candidate in range(port, min(port + 50, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return candidate
    raise GptxError(f"no free port on {host} among the 50 from {port}: use another --port or --host")


def show_links(base: str, experiments: dict[str, str]) -> None:
    """Print two links for each study."""
    for name, experiment_id in experiments.items():
        echo(f"\n{name}")
        echo(f"  table   {mlflow_view.link(base, experiment_id, charts=False)}")
        echo(f"  charts  {mlflow_view.link(base, experiment_id, charts=True)}")
