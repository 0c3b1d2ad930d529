"""What a sweep shows before it starts: the table of arms, rejected combinations, and the total time."""

import io
from pathlib import Path
from typing import Any

from fake_cells import fake_cell, fake_result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.preview import MAX_ROWS, rejections, show
from gptx.sweep.plan.preview_table import duration
from gptx.sweep.plan.time_estimate import TimeEstimator


def shown(cells: list[Cell], tmp_path: Path, width: int = 100, **options: Any) -> str:
    out = io.StringIO()
    show(cells, 2, TimeEstimator(tmp_path, 2, here=False), console=Console(file=out, width=width), **options)
    return out.getvalue()


def test_preview_has_question_table_rejections_notes_and_summary(tmp_path: Path) -> None:
    cells = [
        fake_cell(tmp_path, f"attention={a}", f"pos={p}", seed=s)
        for a in ("mha", "mqa")
        for p in ("rope", "t5")
        for s in (0, 1)
    ]
    fake_result(cells[0])
    for one in cells[4:6]:
        one.rejection = "it cannot be"
    text = shown(cells, tmp_path, about={"question": "which?", "expected": "", "paper": "A 2020"}, notes=["a note"])
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[:2] == ["question: which?", "paper: A 2020"]
    assert "attention" in text and "1 to run, 1 finished" in text
    titles = "attention=mqa pos=rope seed=0, attention=mqa pos=rope seed=1"
    assert f"rejected: 2 combinations: it cannot be ({titles})" in text
    assert "a note" in lines
    time = "about 36 s (estimated from 1 finished run)"
    assert lines[-1] == f"8 combinations: 5 to run, 2 at once, {time}; 1 finished; 2 rejected"


def test_preview_without_a_time_estimate(tmp_path: Path) -> None:
    text = shown([fake_cell(tmp_path)], tmp_path)
    assert "the only arm" in text and text.endswith("1 combination: 1 to run, 1 at once, time unknown\n")


def test_rejections_with_the_same_reason_share_a_line(tmp_path: Path) -> None:
    many = [fake_cell(tmp_path, f"attention={a}", seed=s, rejection="no") for a in ("mha", "mqa") for s in range(4)]
    other = fake_cell(tmp_path, "attention=gqa", rejection="otherwise")
    assert rejections([*many, other]) == [
        "rejected: 8 combinations: no (attention=mha seed=0, attention=mha seed=1, attention=mha seed=2 and 5 more)",
        "rejected: attention=gqa seed=0: otherwise",
    ]


def test_preview_fits_the_terminal(tmp_path: Path) -> None:
    variants = [
        ["attention=differential", f"pos={p}", "window=sliding_sink", "ffn=swiglu"] for p in ("rope_partial", "t5")
    ]
    cells = [fake_cell(tmp_path, *one) for one in variants]
    for width in (60, 80, 120, 200):
        text = shown(cells, tmp_path, width)
        assert max(map(len, text.splitlines())) <= width
        assert all(part in text for part in ("differential", "rope_partial", "sliding_sink", " status")), width


def test_match_note_is_shown_once_for_all_learning_rates(tmp_path: Path) -> None:
    cells = [fake_cell(tmp_path, *variant, f"optim.lr={n}") for variant in ([], ["ffn=moe"]) for n in (1, 2)]
    for one in cells:
        one.note = f"matched for {one.config['variant']['ffn']}"
    lines = [line.strip() for line in shown(cells, tmp_path).splitlines() if "matched for" in line]
    assert lines == ["the only arm  matched for gelu", "ffn=moe       matched for moe"]


def test_preview_of_many_arms_is_cut(tmp_path: Path) -> None:
    config = fake_cell(tmp_path).config
    cells = [Cell([], f"optim.lr={n}", f"optim.lr={n}", config, None, "no") for n in range(50)]
    text = shown(cells, tmp_path)
    assert "and 10 more arms\n" in text
    assert text.count(" rejected\n") == MAX_ROWS + 1  # and the last line


@given(st.floats(1, 1e7))
def test_duration_has_two_digits(seconds: float) -> None:
    number, unit = duration(seconds).split()
    size = {"s": 1, "min": 60, "h": 3600, "days": 86400}[unit]
    assert abs(float(number) * size - seconds) <= max(0.06 * seconds, 0.5)
