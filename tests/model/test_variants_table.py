"""``gptx variants``: the table of docs/variants.md."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command import ROOT
from composed import composed
from helpers_model import options, parameter_count
from omegaconf import OmegaConf

import gptx
from gptx import variants
from gptx.config.axes import model_axes
from gptx.config.compose import compose
from gptx.config.own_options import own_options
from gptx.errors import ConfigError
from gptx.model import variants_table
from gptx.model.variants_table import VariantRow, markdown, table, with_options


@pytest.fixture(scope="module")
def rows() -> list[VariantRow]:
    return list(table())


def test_every_option_has_a_row(rows: list[VariantRow]) -> None:
    assert [(row.axis, row.option) for row in rows] == [
        (axis, option) for axis in model_axes() for option in options(axis)
    ]


def test_docs_contain_the_generated_table(rows: list[VariantRow]) -> None:
    page = (ROOT / "docs/variants.md").read_text()
    shown = page.partition("<!-- variants -->\n")[2].partition("\n<!-- /variants -->")[0]
    assert shown.strip().splitlines() == list(markdown(rows)), "to update the page: gptx variants --markdown"


def test_descriptions_are_distinct_and_cite_a_source(rows: list[VariantRow]) -> None:
    descriptions = [row.description for row in rows]
    assert len(set(descriptions)) == len(descriptions)
    for row in rows:
        if row.axis != "kernel" and (row.axis, row.option) != ("window", "full"):
            assert re.search(r"(19|20)\d\d|GPT-2|Gemma|gpt-oss|Llama", row.description), f"{row.axis}={row.option}"


def test_yaml_files_start_with_the_description(rows: list[VariantRow]) -> None:
    for row in rows:
        text = (ROOT / "conf" / row.axis / f"{row.option}.yaml").read_text()
        assert text.startswith(f"# {row.description}\n") and yaml.safe_load(text)["_target_"]


def test_parameters_and_rejections_equal_those_of_composed_configs(rows: list[VariantRow]) -> None:
    """The table builds its configs without the checks of `gptx.compose`. They equal composed ones for every option, in
    combination with options of the other axes, and so do their models."""
    base, by_axis = composed("device=cpu"), {axis: options(axis) for axis in model_axes()}
    for i in range(max(map(len, by_axis.values()))):
        choices = {axis: names[i % len(names)] for axis, names in by_axis.items()}
        expected = composed("device=cpu", *(f"{axis}={option}" for axis, option in choices.items()))
        assert OmegaConf.to_container(with_options(base, choices), resolve=True) == OmegaConf.to_container(expected)
    for row in rows:
        if row.axis == "kernel":
            continue
        with torch.device("meta"):
            model = gptx.build(with_options(base, {row.axis: row.option}))
        assert row.cost is not None and row.cost.n_params == parameter_count(model), row.option
        for rejection in row.rejects:
            axis, _, names = rejection.partition("=")
            for name in names.split(",") if names else ():
                if axis != "kernel" or name in ("sdpa", "banded"):
                    with pytest.raises(ConfigError), torch.device("meta"):
                        gptx.build(with_options(base, {row.axis: row.option, axis: name}))


@pytest.mark.full
def test_command_prints_the_table_of_another_model(rows: list[VariantRow]) -> None:
    """With one layer, alternating windows are rejected: their row shows the reason instead of figures."""
    command = [sys.executable, "-m", "gptx.variants", "model.n_layer=1", "--markdown"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert rows[0].cells[2] not in done.stdout and any(line.startswith("| attention=gqa |") for line in lines)
    [rejected] = [line for line in lines if "window=alternating" in line and "longer than" in line]
    assert rejected.split(" | ")[2:4] == ["", ""], "no figures"
    assert sum(line.startswith("| window=") for line in lines) == len(options("window"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["window.size=3"], ["window.size=3", "model.KEY"]),
        (["model=gpt3"], ["model=gpt3", "Did you mean"]),
        (["model.n_head=3"], ["model.d_model=128", "model.n_head=3"]),
        (["--markdwn"], ["--markdwn", "--help"]),
    ],
)
def test_wrong_arguments_end_with_exit_code_2_and_one_line(
    arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert variants.main(arguments) == 2
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert out == "" and all(text in line for text in expected)


BROKEN = """
from gptx.kernel.base import Kernel

class InConstructor(Kernel):
    def __init__(self, *arguments):
        raise RuntimeError("no such device")
    mask = forward = None

class InUse(Kernel):
    def unsupported(self, window, pos):
        raise RuntimeError("no such layer")
    def mask(self, where, window, pos): ...
    def forward(self, q, k, v, mask, score): ...
"""


def test_row_of_an_own_kernel_says_why_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "broken_kernels.py").write_text(BROKEN)
    for option, name in (("first", "InConstructor"), ("second", "InUse")):
        (tmp_path / "kernel" / f"{option}.yaml").write_text(f"# Fails\n_target_: broken_kernels.{name}\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with own_options(tmp_path), torch.device("meta"):
        base = variants_table._unresolved(compose(["device=cpu"]))
        model = variants_table.build(base, variants_table.VOCAB)
        for option, why in (("first", "no such device"), ("second", "no such layer")):
            assert not variants_table._supports(option, model)
            row = variants_table._row(base, "kernel", option, ())
            assert row.description == "Fails" and row.cost is None and why in " ".join(row.rejects)
