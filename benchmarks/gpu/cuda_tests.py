"""Part 5b: the tests that need a GPU: those with the mark ``cuda``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import Part, Partial, Results, Row, Settings
from benchmarks.gpu.supervise import ROOT
from benchmarks.report import markdown_table

MOST_FAILURES = 20


@dataclass(frozen=True)
class Outcome:
    """The number of tests of a file, by outcome. ``failures``: their names, with the last line of the error."""

    file: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def text(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"

    @property
    def wrong(self) -> str:
        return self.error or ("failed" if self.failed else "")


def skip(settings: Settings) -> str:
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


def cases(settings: Settings) -> Mapping[str, Path]:
    """The files whose tests have the mark: other files may import packages that a bare machine lacks."""
    tests = ROOT / "tests"
    files = [path for path in sorted(tests.rglob("test_*.py")) if "pytest.mark.cuda" in path.read_text()]
    return {str(path.relative_to(ROOT)): path for path in files}


def measure(path: Path, settings: Settings, partial: Partial) -> Outcome:
    import pytest

    counter = Counter(Outcome(str(path.relative_to(ROOT))), partial)
    limits = [f"--maxfail={MOST_FAILURES}", "-p", "no:cacheprovider", "-q"]
    # A warning of a newer torch must not make every test fail, as the project's own settings would have it.
    code = pytest.main(
        [str(path), f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}", "-m", "cuda", "-W", "default", *limits],
        plugins=[counter],
    )
    usual = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    return counter.outcome if code in usual else replace(counter.outcome, error=f"pytest ended with exit code {code}")


class Counter:
    """A plugin of pytest that counts the outcomes as they come."""

    def __init__(self, outcome: Outcome, partial: Partial) -> None:
        self.outcome, self.partial = outcome, partial

    def pytest_runtest_logreport(self, report: Any) -> None:
        now = self.outcome
        if report.failed:
            lines = str(report.longrepr).strip().splitlines() or [""]
            name = report.nodeid.rpartition("::")[2]
            self.outcome = replace(now, failed=now.failed + 1, failures=now.failures | {name: lines[-1][:200]})
        elif report.skipped:
            self.outcome = replace(now, skipped=now.skipped + 1)
        elif report.when == "call":
            self.outcome = replace(now, passed=now.passed + 1)
        if report.when == "teardown":
            self.partial(self.outcome)


def tables(rows: Sequence[Row], results: Results) -> str:
    lines = [(row.case, *(str(row.figures[key]) for key in ("passed", "failed", "skipped"))) for row in rows]
    table = markdown_table(("tests", "passed", "failed", "skipped"), lines, left=1)
    failures = [f"- `{name}`: {text}" for row in rows for name, text in row.figures["failures"].items()]
    return "\n\n".join([table, "\n".join(failures)] if failures else [table])


PART = Part("tests", "CUDA tests", 50, 480, cases, measure, tables, skip)
