"""Contracts of the axes: what a class lacks is named in one line, and docs/contracts.md describes what the base classes
declare."""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT, Gptx, one_line
from omegaconf import OmegaConf

from gptx.attention.base import Attention
from gptx.config.contracts import required_attributes
from gptx.config.instantiate import part
from gptx.config.own_modules import make_importable
from gptx.config.part_types import BASES, FUNCTIONS
from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape

AXES = sorted({*BASES, *FUNCTIONS} - {"hydra.launcher"})
OURS = [axis for axis in AXES if axis not in FUNCTIONS]
SHAPE = ModelShape(n_layer=1, n_head=2, d_model=8, context=8, vocab_size=11, dropout=0.0, bias=False)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "attention": (SHAPE,),
    "pos": (SHAPE, 4, 2),
    "ffn": (SHAPE,),
    "norm": (SHAPE,),
    "placement": (SHAPE, torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity),
    "kernel": (SHAPE, frozenset()),
}
TORCH = set(dir(torch.nn.Module))


def base(axis: str) -> type:
    module, _, name = BASES[axis].rpartition(".")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Write the module `incomplete`, which can be imported until the test ends."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "incomplete", raising=False)
    (tmp_path / "incomplete.py").write_text(textwrap.dedent(code))


def refusal(axis: str, name: str = "Mine", **keys: Any) -> str:
    """The one-line message with which the class `incomplete.NAME` is refused."""
    cfg = OmegaConf.create({axis: {"_target_": f"incomplete.{name}", **keys}})
    with pytest.raises(ConfigError) as error:
        part(cfg[axis], *ARGUMENTS.get(axis, ()))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("axis", OURS)
def test_class_without_anything_lacks_all_that_its_base_requires(
    axis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = BASES[axis].rpartition(".")
    code = f"from {module} import {name}\nclass Mine({name}):\n    def __init__(self, *args):\n        "
    is_module = issubclass(base(axis), torch.nn.Module)
    given(monkeypatch, tmp_path, code + ("import torch; torch.nn.Module.__init__(self)" if is_module else "pass"))
    methods, attributes = base(axis).__dict__.get("__abstractmethods__", ()), required_attributes(base(axis))
    if not (methods or attributes):
        return  # nothing is required
    message = refusal(axis)
    assert all(f"{method}()" in message for method in methods)
    assert all(re.search(rf"\b{attribute}\b", message) for attribute in attributes)
    assert f"docs/contracts.md#{axis}" in message and f"gptx new {axis} NAME" in message and BASES[axis] in message


@pytest.mark.parametrize(
    ("axis", "code", "lacking"),
    [
        (
            "pos",
            "from gptx.pos.base import PositionalEncoding\nclass Mine(PositionalEncoding):\n    linear = True",
            "slop",
        ),
        (
            "attention",
            """
            from gptx.attention.base import Attention
            class Mine(Attention):
                tp = {"q": "col"}
                rotary_dim = rotary_heads = 2
                def __init__(self, shape):
                    super().__init__()
                def forward(self, x, view, keep):
                    return x
            """,
            "kv_heads (needed with tp)",
        ),
    ],
)
def test_attribute_that_another_one_needs(
    axis: str, code: str, lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, tmp_path, code)
    assert lacking in refusal(axis)


CALLS = """
def mine(step, *, final): ...
def other(step, max_steps, *, final): ...
class Mine:
    def __call__(self, step): ...
"""


def test_function_with_other_arguments_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, tmp_path, CALLS)
    assert "gptx calls it with (step, max_steps, final=...)" in refusal("schedule", "mine", final=0.1)
    assert "gptx calls it with (step, max_steps)" in refusal("schedule")
    assert "missing a required argument: 'final'" in refusal("schedule", "other")


def test_function_needs_no_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, tmp_path, "def mine(step, max_steps, *, final): return final")
    cfg = OmegaConf.create({"schedule": {"_target_": "incomplete.mine", "final": 0.5}})
    assert part(cfg.schedule)(0, 10) == 0.5


def test_encoding_that_overrides_bias_is_biased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from gptx.pos.base import PositionalEncoding\nclass Mine(PositionalEncoding):\n    def bias(self, *args): ..."
    )
    given(monkeypatch, tmp_path, code + "\nclass Other(Mine):\n    biased = False\n")
    module = import_module("incomplete")
    assert module.Mine.biased and not module.Other.biased


def test_incomplete_parts_end_a_command_in_one_line(gptx: Gptx) -> None:
    (gptx.cwd / "own/attention").mkdir(parents=True)
    (gptx.cwd / "own/data").mkdir()
    (gptx.cwd / "own/attention/bare.yaml").write_text("_target_: bare_parts.Bare\n")
    (gptx.cwd / "own/data/bare.yaml").write_text("_target_: bare_parts.Words\nval_fraction: 0.1\nmax_tokens: 0\n")
    (gptx.cwd / "own/bare_parts.py").write_text(
        "from gptx.attention.base import Attention\nfrom gptx.data.base import Corpus\n"
        "class Bare(Attention):\n    def __init__(self, shape):\n        super().__init__()\n"
        "class Words(Corpus):\n    def documents(self, cache):\n        yield 'word ' * 10000\n"
    )
    own = ("--config-dir", "own")
    one_line(gptx(*own, "attention=bare"), "bare_parts.Bare lacks forward(), rotary_dim and rotary_heads:")
    one_line(gptx.run("gptx.run", *own, "data=bare"), "bare_parts.Words lacks fingerprint() and name:")


# The page

PAGE = (ROOT / "docs/contracts.md").read_text()


def section(axis: str) -> str:
    return PAGE.partition(f"\n## {axis}\n")[2].partition("\n## ")[0]


def declared(axis: str) -> Iterator[str]:
    """What the base class of an axis declares: its public attributes and methods."""
    if axis in FUNCTIONS:
        yield from FUNCTIONS[axis]
        return
    yield from (name for name in inspect.get_annotations(base(axis)) if not name.isupper())
    yield from (name for name in vars(base(axis)) if not name.startswith("_") and not name.isupper())


@pytest.mark.parametrize("axis", AXES)
def test_page_describes_what_the_base_class_declares(axis: str) -> None:
    text = section(axis)
    missing = {name for name in declared(axis) if not re.search(rf"`[^`]*\b{name}\b[^`]*`", text)}
    assert not missing


@pytest.mark.parametrize("axis", OURS)
def test_page_names_nothing_that_does_not_exist(axis: str) -> None:
    """The first column of a section's table."""
    cells = re.findall(r"^\| (`[^|]+) \|", section(axis), re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    others = {"slopes", "view", "keep"}
    assert names - others <= set(dir(base(axis))) | set(inspect.get_annotations(base(axis)))


@pytest.mark.parametrize("axis", OURS)
def test_methods_have_their_arguments_and_what_they_return(axis: str) -> None:
    """In the tables, each method with the names of its arguments, and its shapes or types."""
    for row in re.findall(r"^\| `\w+\(.*", section(axis), re.MULTILINE):
        cell, *others = row.strip("| ").split(" | ")
        assert "->" in " ".join(others), row
        for name, arguments in re.findall(r"`(\w+)\(([^)]*)\)", cell):
            if name == "keep":
                continue  # an argument of an attention's forward
            expected = [p for p in inspect.signature(getattr(base(axis), name)).parameters if p != "self"]
            assert arguments.split(", ") == (expected or [""]), row


@pytest.mark.parametrize("axis", OURS)
def test_required_is_marked_on_the_page(axis: str) -> None:
    ours = set(required_attributes(base(axis)))
    in_table = {
        name
        for line in section(axis).splitlines()
        if "**required**" in line
        for name in re.findall(r"`(\w+)", line.split(" | ")[0])
    }
    methods = set(getattr(base(axis), "__abstractmethods__", ()))
    assert in_table <= ours | methods
    if methods - in_table:
        assert "**Required.**" in section(axis) and all(f"`{method}(" in section(axis) for method in methods - in_table)


def test_tp_values_of_the_page_are_those_of_the_code() -> None:
    from gptx.strategy.tp import WAYS

    table = PAGE.partition("\n## Tensor parallelism\n")[2]
    assert set(re.findall(r'^\| `"(\w+)"`', table, re.MULTILINE)) == set(WAYS)


def test_every_public_class_of_an_axis_has_a_docstring() -> None:
    import ast

    for axis in AXES:
        for path in sorted((ROOT / "gptx" / axis).glob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    text = ast.get_docstring(node) or ""
                    assert text and not text.startswith("Args:"), f"{path.name}: {node.name}"


def test_own_folders_come_last_in_the_module_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", ["first"])
    monkeypatch.chdir(tmp_path)
    make_importable([Path("own"), Path("own")])
    assert sys.path == ["first", str(tmp_path / "own"), str(tmp_path)]


def test_attention_requires_no_closed_form() -> None:
    assert required_attributes(Attention) == ("rotary_dim", "rotary_heads")
