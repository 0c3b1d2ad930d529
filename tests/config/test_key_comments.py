"""What `gptx run --help` and `--cfg job` print: the comments of the YAML files, and nothing that a shell refuses."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from command import OWN
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from gptx.config.axes import axes
from gptx.config.help import help_text
from gptx.config.key_comments import commented_yaml, documented, option_documentation
from gptx.config.overrides import PLUGINS, conf_dir, options
from gptx.config.plain_dict import key_names
from gptx.errors import ConfigError

GROUPS = [*(axis.name for axis in axes() if axis.name != "experiment"), *PLUGINS]


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_and_key_has_a_comment(group: str) -> None:
    for option in options(group):
        found = option_documentation(group, option)
        assert found is not None and found.about, f"{group}={option}"
        assert [key.name for key in found.keys if not key.comment] == [], f"{group}={option}"
        content = OmegaConf.load(conf_dir() / group / f"{option}.yaml")
        names = set(key_names(OmegaConf.to_container(content))) - {"defaults"}  # type: ignore[arg-type]
        assert names == {key.name for key in found.keys}


def test_every_key_of_the_config_has_a_comment() -> None:
    assert [key.name for key in documented(conf_dir() / "config.yaml").keys if key.default and not key.comment] == []


def test_comments_of_several_lines_and_marks_in_values(tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(
        "# @package _global_\n# What it is,\n# in two lines\n_target_: mine.Odd\n"
        'one: "a # b"   # first line\n               # second line\n# another comment\n'
        "group:  # of two keys\n  two: [1, 2]  # a list\n  three:\n    - 1\nlast:\n  - 1\n"
    )
    found = documented(file)
    assert found.about == "What it is, in two lines"
    assert [(key.name, key.default, key.comment) for key in found.keys] == [
        ("one", '"a # b"', "first line second line"),
        ("group", "", "of two keys"),
        ("group.two", "[1, 2]", "a list"),
        ("group.three", "", ""),
        ("last", "", ""),
    ]


@pytest.mark.parametrize("resolve", [False, True])
def test_commented_config_is_the_same_yaml(resolve: bool) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra_compose("config", ["experiment=pos_ablation", "attention=mla"], return_hydra_config=True)
    choices = {str(group): str(choice) for group, choice in cfg.hydra.runtime.choices.items()}
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    shown = commented_yaml(cfg, choices, [], resolve=resolve)
    assert yaml.safe_load(shown) == yaml.safe_load(OmegaConf.to_yaml(cfg, resolve=resolve))
    uncommented = [line for line in shown.splitlines() if "_" not in line and "#" not in line and line[0] != " "]
    assert [line for line in uncommented if line.split(":")[0] not in ("trainer", "paths", "runtime")] == []


def test_help_lists_every_option_and_key() -> None:
    text = help_text([])
    for group in GROUPS:
        listed = re.search(rf"^  {group}: +(.+(?:\n {{19}}.+)*)", text, re.MULTILINE)
        assert listed and set(re.split(r",\s+", listed[1])) == set(options(group))
    assert all(f"  {key.name}" in text for key in documented(conf_dir() / "config.yaml").keys)
    assert "model:           nano, gpt2" in text and "  trainer.max_steps=800           optimiser steps\n" in text


def test_help_shows_commands_that_a_shell_accepts() -> None:
    commands = re.findall(r"^  (gptx .+?)(?:   .*)?$", help_text([]), re.MULTILINE)
    assert len(commands) > 8
    for command in commands:
        outside_quotes = re.sub(r"'[^']*'", "", command)
        assert not re.search(r"[()*$&;|<>`\[\]]", outside_quotes), command
        assert shlex.split(command)[0] == "gptx"


def test_help_on_groups_and_options() -> None:
    text = help_text(["attention=gqa", "window=sliding", "trainer.max_steps=3"])
    assert text.startswith("attention=gqa: Grouped-query attention (Ainslie et al. 2023)\n")
    assert "  attention.n_kv_head=2           key/value heads; must divide model.n_head\n" in text
    assert "window=sliding: " in text and "  window.size=32 " in text and "max_steps" not in text
    assert re.search(r"^  alibi +Linear biases", help_text(["pos"]), re.MULTILINE)
    assert "  hydra.launcher.partition=" in help_text(["hydra/launcher=slurm"])
    assert "attention=scaled: " in help_text(["attention=scaled"], [OWN / "conf"])
    with pytest.raises(ConfigError, match="unknown option attention=gqq"):
        help_text(["attention=gqq"])


def test_lines_of_help_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        texts = help_text(["attention=mla", "pos"])
        assert max(map(len, texts.splitlines())) <= columns
