"""What each key means: the comments of the YAML files, which are the documentation of their keys. Imports no torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from gptx.config.overrides import conf_dir

COLUMN = 29  # at which comments begin, as in the YAML files


@dataclass(frozen=True)
class DocumentedKey:
    """A key of a YAML file.

    Attributes:
        name: dotted, within the file.
        default: its value as written in the file; empty for a group and a list of several lines.
        comment: the comment beside it.
    """

    name: str
    default: str
    comment: str


@dataclass(frozen=True)
class DocumentedFile:
    """The comment at the start of a YAML file, and its keys."""

    about: str
    keys: tuple[DocumentedKey, ...]

    def comment(self, name: str) -> str:
        """The comment of a key; empty if there is none."""
        return next((key.comment for key in self.keys if key.name == name), "")


@cache
def documented(file: Path) -> DocumentedFile:
    """The comments of a YAML file, without keys of Hydra such as ``_target_`` and ``defaults``."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    about = " ".join(line.lstrip("# ") for line in lines[:first] if "@package" not in line)
    return DocumentedFile(about, tuple(_keys(_tree(text), text, lines, "")))


def _tree(text: str) -> yaml.Node | None:
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)  # type: ignore[no-untyped-call]
    return node


def _keys(node: yaml.Node | None, text: str, lines: Sequence[str], path: str) -> Iterator[DocumentedKey]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if key.value.startswith("_") or (not path and key.value in ("defaults", "hydra")):
            continue
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style  # on the lines below the key
        mark = key.end_mark if is_block else value.end_mark
        default = "" if is_block else text[value.start_mark.index : value.end_mark.index]
        yield DocumentedKey(f"{path}{key.value}", default, _comment(lines, mark.line, mark.column + is_block))
        if is_block:
            yield from _keys(value, text, lines, f"{path}{key.value}.")


def _comment(lines: Sequence[str], number: int, column: int) -> str:
    """The comment behind a column of a line, with those of the lines below that begin at the same column."""
    if not lines[number][column:].lstrip().startswith("#"):
        return ""
    start = lines[number].index("#", column)
    parts = [lines[number][start:]]
    for line in lines[number + 1 :]:
        if line[:start].strip() or not line[start:].startswith("#"):
            break
        parts.append(line[start:])
    return " ".join(part.lstrip("# ").strip() for part in parts)


def option_documentation(group: str, option: str, own: Sequence[Path] = ()) -> DocumentedFile | None:
    """The comments of an option. A key without a comment has the one that it has in another option of the group.

    Args:
        own: the user's folders.

    Returns:
        None if there is no such option.
    """
    places = [place / group for place in (conf_dir(), *own)]
    file = next((path for place in places if (path := place / f"{option}.yaml").is_file()), None)
    if file is None:
        return None
    others = [documented(path) for path in sorted((conf_dir() / group).glob("*.yaml"))]

    def complete(key: DocumentedKey) -> DocumentedKey:
        found = (other.comment(key.name) for other in others)
        return key if key.comment else replace(key, comment=next(filter(None, found), ""))

    found = documented(file)
    return replace(found, keys=tuple(map(complete, found.keys)))


def commented_yaml(
    cfg: DictConfig, choices: Mapping[str, str], own: Sequence[Path], package: str = "", resolve: bool = False
) -> str:
    """A config as YAML, with the comment of each key behind it.

    Args:
        choices: the chosen options by group.
        own: the user's folders.
        package: the part of the config that is shown, such as ``trainer``; "": all.
        resolve: whether interpolations are replaced by their values.
    """
    part = OmegaConf.select(cfg, package) if package else cfg
    if not isinstance(part, DictConfig):
        return str(part)

    def comment(key: str) -> str:
        group, _, name = key.partition(".")
        if group not in choices:
            return documented(conf_dir() / "config.yaml").comment(key)
        found = option_documentation(group, choices[group], own)
        return (found.comment(name) if name else f"{choices[group]}: {found.about}") if found else ""

    text = OmegaConf.to_yaml(part, resolve=resolve)
    prefix = f"{package}." if package else ""
    return _with_comments(text, lambda key: comment(prefix + key)).rstrip("\n")


def _with_comments(text: str, comment: Callable[[str], str]) -> str:
    lines = text.splitlines()
    for name, number in _lines_of(_tree(text), ""):
        if found := comment(name):
            lines[number] = f"{lines[number]:<{COLUMN - 1}} # {found}"
    return "\n".join(lines)


def _lines_of(node: yaml.Node | None, path: str) -> Iterator[tuple[str, int]]:
    """The keys and the numbers of their lines, without those whose text takes several lines."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if not isinstance(value, yaml.ScalarNode) or value.end_mark.line == key.start_mark.line:
            yield f"{path}{key.value}", key.start_mark.line
        yield from _lines_of(value, f"{path}{key.value}.")
