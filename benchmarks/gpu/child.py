"""The process of one part: it measures the cases that are left and appends a line of JSON to a file for each event.

It goes on after an error. Only if the GPU answers nothing any more, as after an illegal memory access, it ends with
`POISONED`, and the main process starts another one for the remaining cases.
"""

import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.part import Figures, Part, Row, Settings, State, Unsupported, one_line
from benchmarks.gpu.supervise import POISONED
from gptx.processes.children import die_with_parent


def main(given: str) -> int:
    """Measure. ``given``: the arguments as JSON, see `supervise`."""
    work = json.loads(given)
    die_with_parent(work["parent"], signal.SIGKILL)
    settings, events = Settings(**work["settings"]), Path(work["events"])
    part: Part = importlib.import_module(work["module"]).PART
    arguments = part.cases(settings)
    for case in work["cases"]:
        append(events, {"begin": case})
        append(events, {"row": asdict(attempt(part, case, arguments[case], settings, events))})
        if not usable(settings):
            return POISONED
    return 0


def append(path: Path, event: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(event) + "\n")


def attempt(part: Part, case: str, arguments: Any, settings: Settings, events: Path) -> Row:
    """Measure one case; an error becomes a row too."""
    began = time.monotonic()

    def row(state: State, text: str, figures: dict[str, Any] | None = None) -> Row:
        return Row(case, state, round(time.monotonic() - began, 2), text, figures or {})

    def partial(figures: Figures) -> None:
        append(events, {"partial": asdict(row(State.CUT, figures.text, asdict(figures)))})  # type: ignore[call-overload]

    try:
        found = part.measure(arguments, settings, partial)
        state = State.WRONG if found.wrong else State.OK
        return row(state, "; ".join(filter(None, [found.text, found.wrong])), asdict(found))  # type: ignore[call-overload]
    except Unsupported as reason:
        return row(State.UNSUPPORTED, str(reason))
    except torch.OutOfMemoryError as error:
        return row(State.NO_MEMORY, one_line(error))
    except Exception as error:
        traceback.print_exc()
        return row(State.FAILED, one_line(error))


def usable(settings: Settings) -> bool:
    """Free what the case has left, and return whether the GPU still answers."""
    gc.collect()
    if settings.device != "cuda":
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:  # the type differs between versions of torch
        return False
    return True


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads and process groups that a failed case has left must not keep the process
