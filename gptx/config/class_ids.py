"""What a built-in class declares for the identity of runs: a stable id, a revision, added keys. Does not import torch.

Directly above every option's class (or function) its module has the constants

    ID = "attention.gqa"              # names what the class computes; stays the same when the class moves
    REVISION = 1                      # increased when the class computes something else than before
    ADDED_KEYS = {"softcap": 0.0}     # optional: keys added after runs were made, with the value that reproduces those;
                                      # "${.other}": the value of the key `other` of the same group

They are read from the source text, because importing the module would import torch.

A revision is not inherited. A change of what a shared base class or helper computes (`gqa` for its subclasses, `rope`,
`banded_chunks`) must raise the REVISION of every option that uses it, or `CORE_REVISION` of `gptx.config.identity`.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gptx.errors import ConfigError

PACKAGE = Path(__file__).parents[1]

# Targets of runs made before identity scheme 2, where today's target is another. Entries are only ever added: when a
# built-in class moves, its former target is entered here.
FORMER_TARGETS = {
    "gptx.schedule.constant": "gptx.schedule.constant.constant",
    "gptx.schedule.cosine": "gptx.schedule.cosine.cosine",
    "gptx.schedule.wsd": "gptx.schedule.wsd.wsd",
    "gptx.sweep.local.Local": "gptx.sweep.execute.local.Local",
    "gptx.sweep.slurm.Slurm": "gptx.sweep.execute.slurm.Slurm",
    "torch.optim.AdamW": "gptx.optim.adamw.adamw",
}


@dataclass(frozen=True)
class Declaration:
    """What stands above a built-in class: its ID, REVISION and ADDED_KEYS.

    Attributes:
        id: names what the class computes, unique among all built-in classes.
        revision: 1 or more.
        added_keys: by key, the value with which the class computes the same as before the key was added.
    """

    id: str
    revision: int
    added_keys: dict[str, Any] = field(default_factory=dict)

    def reproducing(self, keys: Mapping[str, Any]) -> Mapping[str, Any]:
        """`added_keys`, with references to other keys resolved in ``keys``, the group that configures the class."""
        return {key: _resolved(value, keys) for key, value in self.added_keys.items()}


def _resolved(value: Any, keys: Mapping[str, Any]) -> Any:
    return keys.get(value[3:-1]) if isinstance(value, str) and value.startswith("${.") else value


def current_target(target: str) -> str:
    """The current target of a built-in class that has moved; any other target unchanged."""
    return FORMER_TARGETS.get(target, target)


def declaration(target: str) -> Declaration | None:
    """The declaration above the class of a ``_target_``; None for a class that is not built in.

    Raises:
        ConfigError: a target in gptx whose module does not exist.
    """
    module, _, name = current_target(target).rpartition(".")
    return _declarations(module).get(name) if module.startswith("gptx.") else None


@cache
def _declarations(module: str) -> dict[str, Declaration]:
    """{name of a class or function: the declaration above it}."""
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    if not path.is_file() and not path.with_suffix("").is_dir():
        raise ConfigError(f"{module} is not a module of gptx ({path} is missing): use an existing class")
    found: dict[str, Declaration] = {}
    constants: dict[str, Any] = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else ():
        match statement:
            case ast.Assign(targets=[ast.Name(id="ID" | "REVISION" | "ADDED_KEYS" as name)], value=value):
                constants[name] = ast.literal_eval(value)
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) if "ID" in constants:
                found[name] = Declaration(constants["ID"], constants["REVISION"], constants.get("ADDED_KEYS", {}))
                constants = {}
    return found
