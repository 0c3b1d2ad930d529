"""Which classes the config of a run folder may name. A run folder may come from somebody else: it is data, not code.

Options of gptx are allowed, each on its own axis. Any other class belongs to a module that the user names with
``--trust``, or that a YAML file of the command's ``--config-dir`` names. Nothing is imported for this check.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gptx.cli import Parser
from gptx.config.class_ids import current_target, declaration
from gptx.config.own_modules import make_importable
from gptx.config.part_types import BASES, FUNCTIONS, check_name, constructor_keys, nested_targets
from gptx.errors import ConfigError


class NotTrusted(ConfigError):
    """A run names modules that are neither part of gptx nor trusted."""


_AXES = {*BASES, *FUNCTIONS} - {"hydra.launcher"}


def with_trust_options(parser: Parser) -> Parser:
    """Add ``--trust``, ``--trust-code`` and ``--config-dir`` to the parser of a command that loads a run folder."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module that the run may use besides gptx; its code is run. May be repeated",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run the copy of your own modules in the run folder, if it has the hashes that the journal recorded",
    )
    parser.add_argument(
        "--config-dir",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="trust the modules that the YAML files of this folder of your own variants name",
    )
    return parser


def trusted_modules(args: argparse.Namespace) -> tuple[str, ...]:
    """The modules that the options of `with_trust_options` name.

    Raises:
        ConfigError: a folder does not exist, or a YAML file in it cannot be read.
    """
    if args.trust or args.config_dir:
        make_importable(args.config_dir)
    return (*args.trust, *(module for folder in args.config_dir for module in _modules_named_in(folder)))


def _modules_named_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder} does not exist; expected the folder of your own YAML files")
    found = []
    for path in sorted(folder.rglob("*.yaml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))  # type: ignore[no-untyped-call]
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"--config-dir {folder}: cannot read {path}: {' '.join(str(error).split())}") from None
        target = content.get("_target_") if isinstance(content, dict) else None
        if isinstance(target, str) and "." in target:
            found.append(target.rpartition(".")[0])
    return found


def check_trust(config: Mapping[str, Any], trust: Iterable[str], source: Path) -> None:
    """Check every target in the config of a run folder.

    Args:
        config: plain dicts, lists and scalars.
        trust: names of modules; what is below them is trusted, too.
        source: for messages.

    Raises:
        NotTrusted: a module is not trusted.
        ConfigError: a target is not an option of its axis.
    """
    trust = [trust] if isinstance(trust, str) else list(trust)
    unknown = {}
    for name, group in config.items():
        if not isinstance(group, Mapping) or name not in _AXES:
            for key, found in nested_targets({name: group}, ""):
                raise ConfigError(f"{source}: {key}={found!r} is not a key of gptx's configs")
            continue
        target = str(group.get("_target_"))
        try:
            check_name(name, target)
            constructor_keys(name, group)
            if not _is_option_of_gptx(name, target) and not _is_below(target, trust):
                unknown[name] = target
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
    if unknown:
        raise NotTrusted(_about(unknown, source))


def own_modules(config: Mapping[str, Any]) -> list[str]:
    """The modules of a config's classes that are not part of gptx."""
    targets = {str(group.get("_target_", "")) for group in config.values() if isinstance(group, Mapping)}
    return _modules(target for target in targets if target and not current_target(target).startswith("gptx."))


def _modules(targets: Iterable[str]) -> list[str]:
    return sorted({target.rpartition(".")[0] for target in targets})


def _is_option_of_gptx(axis: str, target: str) -> bool:
    """Whether gptx has this option. Its declaration is read from the source of the installed package.

    Raises:
        ConfigError: a name in gptx that is no option of the axis.
    """
    if not current_target(target).startswith("gptx."):
        return False
    try:
        declared = declaration(target)
    except ConfigError:  # there is no such module
        declared = None
    if declared is None or not declared.id.startswith(f"{axis}."):
        raise ConfigError(f"{axis}._target_={target} is not an option of {axis} in gptx")
    return True


def _is_below(target: str, modules: Iterable[str]) -> bool:
    return any(f"{target}.".startswith(f"{module}.") for module in modules)


def _about(unknown: Mapping[str, str], source: Path) -> str:
    modules = _modules(unknown.values())
    named = ", ".join(f"{axis}._target_={target}" for axis, target in unknown.items())
    return (
        f"{source} has {named}, which is not part of gptx and is not imported: if you trust the "
        f"module{'s' * (len(modules) > 1)}, add {' '.join(f'--trust {module}' for module in modules)} (in Python: "
        f"trust={modules}), or --config-dir with the folder of the YAML that names it"
    )
