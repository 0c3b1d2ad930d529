"""Numbers with prefixes, and memory in one unit."""

import math
import re

from command import ROOT
from hypothesis import given
from hypothesis import strategies as st

from gptx.compare.formatting import figure
from gptx.runs.metrics import BY_KEY
from gptx.runs.units import human, memory_text


def test_human_units() -> None:
    assert [human(x) for x in (0, 7, 0.5, 999, 999.6, 12_345, 999_499, 999_999, 1.5e9)] == [
        *("0", "7", "0.50", "999", "1.00k", "12.3k", "999k", "1.00M", "1.50G")
    ]
    assert human(612e6, "B") == "612 MB" and human(3e3, "B", scale_of=612e6) == "0 MB" and human(math.nan) == "-"
    assert [memory_text(x) for x in (0, 999_999, 1.234e9, 59.6e9)] == ["0 B", "1.0 MB", "1.2 GB", "60 GB"]


@given(st.floats(1e3, 1e14), st.integers(2, 4))
def test_human_has_the_requested_digits(size: float, digits: int) -> None:
    number, unit = human(size, "B", digits=digits).split()
    assert abs(float(number) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[unit[0]] / size - 1) <= 0.51 * 10 ** (
        1 - digits
    )
    assert len(number.replace(".", "")) >= digits or float(number) >= 100


def test_summary_and_tables_show_the_same_memory() -> None:
    peak = BY_KEY["peak_memory_bytes"]
    assert peak.text(358.94e6) == figure(peak, 358.94e6) == "359 MB"
    assert BY_KEY["kv_bytes_per_token"].text(2048) == "2.05 kB/token"


def test_memory_has_one_unit_everywhere() -> None:
    """`gptx.runs.units` alone turns bytes into text. Tables of the benchmarks have the unit in their headings."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    code = [path for folder in ("gptx", "benchmarks", "launch") for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in (*pages, *code) if re.search(r"\b[KMGT]iB\b", path.read_text())] == []
    divided = r"/ (1e[3-9]|1024|2 ?\*\* ?[1-3]0)[^}]*} ?[kMG]i?B\b(?!/s)"
    assert [path.name for path in code if re.search(divided, path.read_text())] == []
