"""``python -m gptx.variants``: the table that the README shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers_model import options

import gptx
from gptx.config.axes import model_axes
from gptx.errors import ConfigError
from gptx.variants import Row, table

ROOT = Path(__file__).parents[2]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-m", "gptx.variants", *words]
    return subprocess.run(done, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(table())


def test_every_option_on_disk_has_a_row(rows: list[Row]) -> None:
    assert [(row.axis, row.option) for row in rows] == [
        (axis, option) for axis in model_axes() for option in options(axis)
    ]


def test_the_readme_shows_what_the_command_prints(rows: list[Row]) -> None:
    shown = (
        (ROOT / "docs/variants.md").read_text().partition("<!-- variants -->\n")[2].partition("\n<!-- /variants -->")[0]
    )
    printed = command("--markdown")
    assert printed.returncode == 0 and shown.strip() == printed.stdout.strip(), "python -m gptx.variants --markdown"
    for row in rows:
        assert "| " + " | ".join(row.cells) + " |" in shown


def test_each_says_what_it_is_and_from_where(rows: list[Row]) -> None:
    said = [row.what for row in rows]
    assert len(set(said)) == len(said)
    for row in rows:
        if row.axis != "kernel" and (row.axis, row.option) != ("window", "full"):
            assert re.search(r"(19|20)\d\d|GPT-2|Gemma|gpt-oss|Llama", row.what), (
                f"{row.axis}={row.option}: whose is it?"
            )


def test_figures_and_refusals_are_those_of_real_models(rows: list[Row]) -> None:
    """The command line composes and checks what the table only puts together."""
    for row in rows:
        words = [f"{row.axis}={row.option}", "device=cpu", "tokenizer=byte"]
        if row.axis == "kernel":
            continue
        with torch.device("meta"):
            model = gptx.build(gptx.compose(words))
        assert row.cost is not None and row.cost.n_params == sum(p.numel() for p in model.parameters()), words
        for refusal in row.refuses:
            axis, _, names = refusal.partition("=")
            for name in names.split(",") if names else ():
                if axis != "kernel" or name in ("sdpa", "banded"):
                    with pytest.raises(ConfigError), torch.device("meta"):
                        gptx.build(gptx.compose([*words, f"{axis}={name}"]))


def test_another_model_has_other_figures(rows: list[Row]) -> None:
    done = command("model.n_layer=2")
    assert done.returncode == 0
    assert rows[0].cells[2] not in done.stdout and "attention=gqa" in done.stdout


def test_an_option_that_refuses_the_model_says_so_in_its_row() -> None:
    done = command("model.n_layer=1", "--markdown")
    [line] = [line for line in done.stdout.splitlines() if "window=alternating" in line and "longer than" in line]
    assert line.split(" | ")[2:4] == ["", ""], "no figures"
    assert sum(line.startswith("| window=") for line in done.stdout.splitlines()) == len(options("window"))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["window.size=3"], ["window.size=3", "model.KEY"]),
        (["model=gpt3"], ["model=gpt3", "Did you mean"]),
        (["model.n_head=3"], ["model.d_model=128", "model.n_head=3"]),
        (["--markdwn"], ["--markdwn", "--help"]),
    ],
)
def test_a_mistake_is_one_line(words: list[str], parts: list[str]) -> None:
    done = command(*words)
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    for part in parts:
        assert part in line


def test_yaml_files_begin_with_what_the_table_says(rows: list[Row]) -> None:
    for row in rows:
        path = ROOT / "conf" / row.axis / f"{row.option}.yaml"
        assert path.read_text().startswith(f"# {row.what}\n") and yaml.safe_load(path.read_text())["_target_"]
