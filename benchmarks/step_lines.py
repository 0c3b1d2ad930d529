"""Count the code that a reader must follow to understand one training step.

Trains the default config for two steps and records every function of the package that is called between the start and
the end of the second one, in all threads: reading of a batch, forward, loss, backward, optimiser. Such a function
counts with all its lines, executed or not; blank lines, comments and docstrings do not count, nor does code that only
runs before the first step (imports, constructors).

Usage: python -m benchmarks.step_lines [overrides], e.g. kernel=sdpa
"""

import ast
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import gptx

PACKAGE = Path(gptx.__file__).parent


class Recorder:
    """A profile function (see `sys.setprofile`) that collects the called functions of the package while `active`."""

    def __init__(self) -> None:
        self.active = False
        self.called: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.active and event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            self.called.add(frame.f_code)


def main(overrides: list[str]) -> None:
    recorder = Recorder()
    threading.setprofile(recorder)  # for threads that the trainer starts
    sys.setprofile(recorder)
    try:
        train_two_steps(overrides, recorder)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    total, by_file = 0, defaultdict[Path, list[CodeType]](list)
    for code in recorder.called:
        by_file[Path(code.co_filename)].append(code)
    for path, codes in sorted(by_file.items()):
        count, names = count_lines(path, codes)
        total += count
        print(f"{count:>5}  {path.relative_to(PACKAGE)}: {', '.join(names)}")
    print(f"{total:>5}  lines in {len(by_file)} files")


def train_two_steps(overrides: list[str], recorder: Recorder) -> None:
    """Train two steps; ``recorder`` records the functions that the second one calls."""
    from gptx.config.compose import compose
    from gptx.config.instantiate import part
    from gptx.runs.folder import RunFolder
    from gptx.training.trainer import Trainer

    cfg = compose(["tracking=off", *overrides])
    strategy = part(cfg.strategy)
    with tempfile.TemporaryDirectory() as folder, strategy.open(cfg.device.type):
        trainer = Trainer(cfg, RunFolder(Path(folder)), strategy, None)
        trainer.step()
        recorder.active = True
        trainer.step()
        recorder.active = False
        trainer.close()


def count_lines(path: Path, codes: list[CodeType]) -> tuple[int, list[str]]:
    """The lines of code of these functions of a file, and the functions' names. A function inside another one that is
    counted, such as a lambda, adds nothing."""
    source = path.read_text(encoding="utf-8")
    lines, first_lines = source.splitlines(), {code.co_firstlineno for code in codes}
    counted: set[int] = set()
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first in first_lines:
                names.append(node.name)
                counted |= set(range(first, (node.end_lineno or first) + 1)) - docstring_lines(node)
    code_lines = [i for i in counted if lines[i - 1].strip() and not lines[i - 1].strip().startswith("#")]
    return len(code_lines), names


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    if ast.get_docstring(node) is None:
        return set()
    return set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))


if __name__ == "__main__":
    main(sys.argv[1:])
