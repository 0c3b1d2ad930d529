"""Run gptx's command line in the process of the tests, which has torch loaded and shares one fork server."""

import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from command import OWN, OWN_CONF, Done, Gptx, once

from gptx import run
from gptx.sweep.execute import prewarm


def sweep_arguments(gptx: Gptx, *overrides: str) -> list[str]:
    """Arguments of a sweep of tiny runs, each key once."""
    return ["-m", *OWN_CONF, *once(*gptx.tiny, *overrides)]


def sweep_here(gptx: Gptx, *overrides: str) -> Done:
    """A sweep of tiny runs. Its runs are separate processes without the environment variables of `pausing`."""
    return run_here(gptx, *sweep_arguments(gptx, f"paths.outputs={gptx.outputs}", *overrides))


def run_here(gptx: Gptx, *arguments: str) -> Done:
    """``gptx run`` in the folder of a `Gptx`, for a command that trains nothing itself."""
    out, err = StringIO(), StringIO()
    with chdir(gptx.cwd), _signals_restored(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OWN)
        patch.setattr(prewarm, "stop_server", lambda: None)
        patch.setattr(sys, "argv", ["gptx"])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = run.main(arguments)
            except SystemExit as end:
                code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@contextmanager
def _signals_restored() -> Iterator[None]:
    mask, handler = signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
