"""The text of ``gptx run --help``, from the YAML files and their comments. Does not import torch."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from gptx.cli import exit_code_table
from gptx.config.axes import axes
from gptx.config.key_comments import DocumentedKey, documented, option_documentation
from gptx.config.overrides import PLUGINS, conf_dir, is_group, key_of, options, unknown_option
from gptx.config.parsing import typed_value
from gptx.errors import ConfigError

WIDTH = 120  # columns at most
KEYS = 32  # columns of the keys

_ABOUT = """\
usage: gptx run [OPTION=CHOICE ...] [KEY=VALUE ...] [--config-dir DIR] [--cfg job] [-m] [-v] [-q]

A run is one combination of attention x pos x window x ffn x ... x seed. The same command resumes an interrupted run
and prints the result of a finished one.

  gptx run                                                 train the default variant
  gptx run attention=gqa pos=rope strategy=ddp             another variant, in two processes
  gptx run model.n_layer=6 trainer.max_steps=2000          any key of the config
  gptx run --help attention                                the options of a group
  gptx run --help attention=gqa window=sliding             the keys of options, and what they mean
  gptx run attention=mla --cfg job                         print the config with the meaning of all keys; runs nothing
  gptx sweep attention=mha,gqa pos=learned,rope seed=0,1   all combinations, then a comparison
  gptx sweep 'pos=glob(*)' trainer.max_steps=100           all options of a group
  gptx sweep experiment=smoke/pos_ablation                 a study with its own grid; without smoke/: its full size
  gptx sweep seed=0,1 dry_run=true                         preview: what would run, its cost, what is rejected"""


def help_text(words: Sequence[str], own: Sequence[Path] = ()) -> str:
    """The help on the groups and options among the words of a command line, or on the command if there are none.

    Args:
        own: the user's folders.

    Raises:
        ConfigError: an option does not exist.
    """
    asked = [word for word in words if is_group(key_of(word), own)]
    if asked:
        return "\n\n".join(map("\n".join, (_on(key_of(word), typed_value(word), own) for word in asked)))
    parts = [[_ABOUT], ["Options, the default first:", *_groups(own)], ["Keys and their defaults:", *_top_level()]]
    return "\n\n".join(map("\n".join, [*parts, [exit_code_table()]]))


def _on(group: str, option: str, own: Sequence[Path]) -> Iterator[str]:
    if not option:
        yield f"{group}:"
        for name in options(group, own):
            found = option_documentation(group, name, own)
            yield from _columns(f"  {name}", found.about if found else "")
        return
    found = option_documentation(group, option, own)
    if found is None:
        raise ConfigError(unknown_option(group, option, own))
    yield from _wrapped(f"{group}={option}: {found.about}", 2)
    for key in found.keys:
        yield from _key(key, f"{group.replace('/', '.')}." if group != "experiment" else "")


def _groups(own: Sequence[Path]) -> Iterator[str]:
    for group, default in [*((axis.name, axis.default) for axis in axes()), *((plugin, "") for plugin in PLUGINS)]:
        names = options(group, own)
        ordered = sorted(names, key=lambda name, first=default: name != first)  # type: ignore[misc]
        yield from _wrapped(f"  {group + ':':<17}{', '.join(ordered)}", 19)


def _top_level() -> Iterator[str]:
    for key in documented(conf_dir() / "config.yaml").keys:
        yield from _key(key)


def _key(key: DocumentedKey, prefix: str = "") -> Iterator[str]:
    name = f"  {prefix}{key.name}"
    return _columns(f"{name}={key.default}" if key.default else f"{name}", key.comment)


def _columns(left: str, right: str) -> Iterator[str]:
    """Two columns, of which the second is wrapped."""
    return _wrapped(f"{left:<{KEYS}}  {right}".rstrip(), KEYS + 2)


def _wrapped(text: str, indent: int) -> Iterator[str]:
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    start = len(text) - len(text.lstrip())
    body = textwrap.TextWrapper(width, subsequent_indent=" " * indent, break_on_hyphens=False, replace_whitespace=False)
    body.initial_indent = text[:start]
    yield from body.wrap(text[start:])
