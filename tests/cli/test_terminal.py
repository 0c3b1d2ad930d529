"""What reaches a terminal, a pipe, a full device and a narrow encoding."""

import ast
import io
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import IO

import pytest
from command import ROOT, Gptx, Terminal
from conftest import Trained
from fake_runs import make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from tiers import some

from gptx.console import Console, VisibleText
from gptx.model.sampling import up_to
from gptx.terminal import echo, path_text, shell_words, visible
from gptx.training.progress import ProgressBar

HOSTILE = "\x1b]0;title\x07\x9b2J\u202ereversed\r\x00"
SHOWN = r"\x1b]0;title\x07\x9b2J\u202ereversed\r\x00"
NARROW = [
    pytest.param({"PYTHONIOENCODING": "ascii"}, id="ascii"),
    pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0"}, id="C", marks=pytest.mark.full),
]


def raw(text: str) -> set[str]:
    """The control characters of a hostile text that a text contains, without the escape of rich's colours."""
    return set(HOSTILE) & set(text) & set("\x07\x9b\u202e\x00") | {"\x1b]" for _ in range("\x1b]" in text)}


def cold(
    gptx: Gptx, *words: str, stdout: int | IO[bytes] = subprocess.PIPE, **env: str
) -> "subprocess.CompletedProcess[bytes]":
    """``gptx WORDS`` in a new interpreter, whose streams have the encoding of the environment."""
    command = [sys.executable, "-m", "gptx", *words]
    environment = gptx.env | env
    return subprocess.run(command, cwd=gptx.cwd, env=environment, stdout=stdout, stderr=subprocess.PIPE, check=False)


def test_visible_keeps_printable_text_and_no_control_character() -> None:
    for code in range(sys.maxunicode + 1):
        shown = visible(chr(code))
        category = unicodedata.category(chr(code))
        if category in ("Cc", "Cs", "Zl", "Zp") and chr(code) not in "\n\t":
            assert shown.isascii() and shown.isprintable()
        elif category != "Cf":
            assert shown == chr(code)
    directions = [chr(code) for code in range(0x2000, 0x2070) if "override" in unicodedata.name(chr(code), "").lower()]
    assert len(directions) == 2 and all(visible(mark).startswith("\\u20") for mark in directions)
    assert visible("zero\u200djoiner") == "zero\u200djoiner"


def test_console_shows_hostile_text_wherever_it_is_put() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    table = Table(HOSTILE, "more", title=HOSTILE)
    table.add_row(HOSTILE, VisibleText.assemble((HOSTILE, "bold"), HOSTILE).append(HOSTILE))
    console.print(HOSTILE, table, Panel(HOSTILE, title="sample"), "[red]no markup[/] :smile:")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert raw(shown) == set()
    assert shown.count(SHOWN) == 8 and "[red]no markup[/] :smile:" in shown


def test_echo_shows_hostile_text(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE, 1)
    echo()
    assert capsys.readouterr().out == f"{SHOWN}\n1\n\n"


def test_other_modules_neither_print_nor_use_classes_of_rich_directly() -> None:
    """They print with `gptx.terminal` and `gptx.console`."""
    found = []
    for path in sorted((ROOT / "gptx").rglob("*.py")):
        if path.name in ("terminal.py", "console.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path}:{node.lineno}: print")
            if isinstance(node, ast.ImportFrom) and node.module in ("rich.console", "rich.text", "rich"):
                names = {name.name for name in node.names}
                found += [f"{path}:{node.lineno}: {name}" for name in names & {"Console", "Text", "print"}]
            if isinstance(node, ast.Attribute) and node.attr in ("write", "writelines"):
                found += [f"{path}:{node.lineno}: write" for _ in [0] if "sys.std" in ast.unparse(node.value)]
    assert found == []


def test_names_of_others_runs_reach_no_terminal_raw(gptx: Gptx) -> None:
    make_run(gptx.outputs, attention=HOSTILE, study="study")
    make_run(gptx.outputs, pos=HOSTILE, study="study", end="failed")
    make_run(gptx.outputs, uid="9" * 32)
    piped = gptx.run("gptx.compare", "--include-unfinished")
    assert piped.code == 0, piped.err
    terminal = Terminal(gptx, "gptx.compare", "--include-unfinished", warm=True)
    assert terminal.end() == 0, terminal.shown
    for shown in (piped.out + piped.err, terminal.shown):
        assert raw(shown) == set()
        assert r"\x1b]0;title" in "".join(shown.split())


def test_errors_with_hostile_names_are_visible(gptx: Gptx) -> None:
    for command in (["gptx.run", f"study={HOSTILE[:-1]}"], ["gptx.compare", HOSTILE[:-1]], ["gptx", HOSTILE[:-1]]):
        done = gptx.run(*command)
        assert done.code == 2
        assert raw(done.out + done.err) == set() and r"\x1b]0;title" in done.err


def test_generate_writes_exact_text_to_a_pipe_and_visible_text_to_a_terminal(trained: Trained) -> None:
    words = ["generate", str(trained.folder), "--prompt", f"é{HOSTILE[:-1]}", "--tokens", "4", "--top-k", "1"]
    done = cold(trained.gptx, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"é{HOSTILE[:-1]}".encode()) and done.stdout.endswith(b"\n")
    terminal = Terminal(trained.gptx, "gptx", *words, warm=True)
    assert terminal.end() == 0, terminal.shown
    assert raw(terminal.shown) == set() and rf"é{SHOWN}".removesuffix(r"\x00") in terminal.shown


@pytest.mark.parametrize("env", NARROW)
def test_commands_print_in_a_narrow_encoding(trained: Trained, env: dict[str, str]) -> None:
    for words in (
        ["run", *trained.gptx.tiny],
        ["compare"],
        ["generate", str(trained.folder.relative_to(trained.gptx.cwd)), "--prompt", "é", "--tokens", "4"],
    ):
        done = cold(trained.gptx, *words, **env)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""
        if words[0] != "generate":
            assert b"mha?rope?" in done.stdout and done.stdout.isascii()


WORDS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1)


@pytest.mark.parametrize("shell", ["sh", "bash"])
@settings(max_examples=30, deadline=None)
@given(words=WORDS)
def test_a_shell_reads_suggested_words_as_they_were_meant(words: list[str], shell: str) -> None:
    words = [word.rstrip("\n") for word in words]  # the output of a command loses line breaks at its end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
        command = shell_words(["printf", r"%s\0", *words])
    assert command.isascii()
    done = subprocess.run([shell, "-c", command], stdout=subprocess.PIPE, check=True, env={"LC_ALL": "C"})
    assert done.stdout.decode().split("\0")[:-1] == words


def test_words_and_paths_stay_readable_where_the_encoding_has_their_characters() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
        assert shell_words(["gptx", "mha·rope", "a b"]) == "gptx 'mha·rope' 'a b'"
        assert path_text(Path("mha·rope")) == "mha·rope"
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
        assert shell_words(["gptx", "out/mha·rope"]) == "gptx \"$(printf 'out/mha\\302\\267rope')\""
        assert path_text(Path("mha")) == "mha"


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("env", NARROW)
def test_printed_command_runs_when_it_is_pasted(trained: Trained, env: dict[str, str], shell: str) -> None:
    printed = cold(trained.gptx, "run", *trained.gptx.tiny, **env).stdout.decode("ascii")
    [command] = re.findall(r"^  (gptx generate .*)$", printed, re.MULTILINE)
    assert "?" not in command
    script = f'gptx() {{ "{sys.executable}" -m gptx "$@" --tokens 4; }}; {command}'
    environment = trained.gptx.env | env
    command_line, where = [shell, "-c", script], trained.gptx.cwd
    done = subprocess.run(command_line, cwd=where, env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith(b"The state of the union"), done.stderr
    [folder] = re.findall(r"^folder +(.*)$", printed, re.MULTILINE)
    subprocess.run([shell, "-c", f"cd {folder}"], cwd=where, env=environment, check=True)


@pytest.mark.parametrize("env", NARROW)
def test_run_ends_in_a_narrow_encoding(gptx: Gptx, env: dict[str, str]) -> None:
    done = cold(gptx, "run", *gptx.tiny, "trainer.max_steps=10", **env)
    assert done.returncode == 0, done.stderr
    assert b"sample after 10 steps" in done.stdout and done.stdout.isascii()
    assert gptx.folder.name.startswith("mha·rope·full·single·s0-")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("command", some(["generate", "compare", "run"], "compare"))
def test_full_device_is_one_line(trained: Trained, command: str) -> None:
    words = {"generate": [str(trained.folder), "--tokens", "4"], "run": trained.gptx.tiny}
    with open("/dev/full", "wb") as full:
        done = cold(trained.gptx, command, *words.get(command, []), stdout=full)
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("gptx: ") and "No space left on device" in line and "resumes" not in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\n\ntwo\n\nthree", "one"),
        ("one\ntwo", "one\ntwo"),
        ("one\n", "one\n"),
        ("\n\none", ""),
        ("a\n\n", "a"),
    ],
)
def test_text_ends_at_the_stop_string_however_it_is_divided(text: str, expected: str) -> None:
    for size in (1, 2, 3, 5):
        chunks = [text[i : i + size] for i in range(0, len(text), size)]
        assert "".join(up_to(["\n\n"], chunks)) == expected
    assert "".join(up_to([], list(text))) == text


@given(
    st.text("ab\n", max_size=40),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 6), min_size=40, max_size=40),
)
def test_text_ends_before_the_stop_string_that_is_complete_first(text: str, stops: list[str], sizes: list[int]) -> None:
    prefixes = (text[:n] for n in range(len(text) + 1))
    first = next(((p, max(len(s) for s in stops if p.endswith(s))) for p in prefixes if p.endswith(tuple(stops))), None)
    expected = first[0][: len(first[0]) - first[1]] if first else text
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    chunks = [text[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    assert "".join(up_to(stops, chunks)) == expected


def test_csv_and_json_are_printed(trained: Trained) -> None:
    for name in ("-", "/dev/stdout"):
        done = trained.gptx.run("gptx.compare", "--csv", name)
        assert done.code == 0 and done.out.startswith("attention,pos,window,strategy,n,"), done
        assert len(done.out.splitlines()) == 2
    assert not (trained.gptx.cwd / "-").exists()
    assert trained.gptx.run("gptx.compare", "--json", "-").out.startswith("{\n")
    both = trained.gptx.run("gptx.compare", "--json", "-", "--csv", "-")
    assert both.code == 2 and both.err.startswith("gptx: --csv and --json print to stdout")
    assert trained.gptx.run_unread("gptx.compare", "--csv", "-", stderr=False) == 0


def test_files_that_are_not_regular_are_written_in_place(trained: Trained, tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "pipe"
    target.write_text("old" * 10_000)
    link.symlink_to(target)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    done = trained.gptx.run("gptx.compare", "--csv", str(link), "--json", str(pipe))
    assert done.code == 0, done.err
    assert link.is_symlink() and target.read_text().startswith("attention,") and "old" not in target.read_text()
    assert pipe.is_fifo() and os.read(reader, 2) == b"{\n"
    os.close(reader)


def test_picture_loads_nothing(trained: Trained, tmp_path: Path) -> None:
    assert trained.gptx.run("gptx.compare", "--svg", str(tmp_path / "table.svg")).code == 0
    picture = (tmp_path / "table.svg").read_text(encoding="utf-8")
    assert "url(http" not in picture and 'url("' not in picture and "Fira Code" in picture


def test_single_variant_has_no_best(trained: Trained) -> None:
    terminal = Terminal(trained.gptx, "gptx.compare", warm=True)
    assert terminal.end() == 0 and "1 variant, 1 run" in terminal.shown and "bold" not in terminal.shown


@pytest.mark.parametrize("column", ["params", "bits/byte", "KV/token", "peak memory", "tokens/s"])
def test_table_can_be_sorted_by_its_headings(trained: Trained, column: str) -> None:
    assert trained.gptx.run("gptx.compare", "--sort", column).code == 0


def test_hints_name_the_folder_that_is_not_the_default(trained: Trained, gptx: Gptx) -> None:
    assert trained.done.out.rstrip().endswith("  gptx ui")
    done = gptx("paths.outputs=my runs", "trainer.max_steps=10")
    assert done.code == 0 and done.out.rstrip().endswith("  gptx ui --outputs 'my runs'")


@pytest.mark.parametrize("columns", [60, 80])
def test_progress_bar_shows_steps_and_time_in_a_narrow_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    bar = ProgressBar("nano " + "differential·rope·full·fsdp_tp·s0-0123456789" * 2, 100_000, 12_345, True)
    console = Console(file=io.StringIO(), width=columns)
    console.print(bar.bar.get_renderable())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "12345/100000" in shown.replace(" ", "") and "tok/s" in shown and "-:--:--" in shown
    assert "…" in shown and ("nano" in shown or columns < 80) and len(shown.splitlines()) == 1


VALUES = {"train/loss": 2.5, "perf/tokens_per_s": 12345.6, "val/loss": 2.25, "val/bpb": 3.125}


def lines_of(bar: ProgressBar, *records: tuple[int, dict[str, float], bool]) -> list[str]:
    """The lines that a display prints, without a terminal."""
    bar.console = Console(file=io.StringIO(), width=80)
    for record in records:
        bar.update(*record)
    return bar.console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_log_has_losses_speed_percentage_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 110.0, 120.0, 135.0, 141.0, 141.0, 143.0, 143.0])
    monkeypatch.setattr("gptx.training.progress.time.monotonic", lambda: next(clock))
    bar = ProgressBar("name", 400, 0, True)
    train = {key: value for key, value in VALUES.items() if not key.startswith("val")}
    skipped = {key: value for key, value in VALUES.items() if not key.startswith("train")}
    lines = lines_of(bar, (50, VALUES, True), (60, train, True), (70, train, True), (100, train, True))
    assert lines == [
        "step  50/400    12%   train loss 2.5000   val loss 2.2500   3.1250 bits/byte (best)   12,346 tokens/s   "
        "0:01:10 left",
        "step 100/400    25%   train loss 2.5000   12,346 tokens/s   0:02:03 left",  # 30 s after the last line
    ]
    [line] = lines_of(bar, (400, skipped, False))
    assert (
        line
        == "step 400/400   100%   train loss -   val loss 2.2500   3.1250 bits/byte   12,346 tokens/s   0:00:00 left"
    )


def test_brief_runs_and_other_ranks_print_no_lines() -> None:
    assert lines_of(ProgressBar("name", 400, 0, enabled=True, brief=True), (50, VALUES, True)) == []
    assert lines_of(ProgressBar("name", 400, 0, enabled=False), (50, VALUES, True)) == []
