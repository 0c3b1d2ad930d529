"""Sets of options that are composed once, and values that are applied to them. Does not import torch.

Hydra needs 70 ms to compose a config and 1 ms is enough to set a value, so a grid composes each set of options once.
Overrides of another form than ``key=value`` (``+key=value``, ``~key``, ``key={...}``) are left to Hydra.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from gptx.config.check_types import checked
from gptx.config.composition import Composition, composed_by_hydra, composition_of, default_composition
from gptx.config.composition_errors import UNREADABLE, explain
from gptx.config.option_files import option_files
from gptx.config.overrides import is_group, key_of, own_dirs
from gptx.config.parsing import parsed, quote, split, typed_value
from gptx.config.plain_dict import PlainConfig, plain_dict, plain_value
from gptx.errors import ConfigError

Keys = tuple[str, ...]
FILES = "data.path"  # its list is empty by default and has the names of files


class Compositions:
    """Composed sets of options: made by the first config that has them, used by all others."""

    def __init__(self) -> None:
        self._composed: dict[Keys, Composition | ConfigError] = {}
        self._schemas: dict[Keys, PlainConfig] = {}

    def compose(self, overrides: Sequence[str]) -> PlainConfig:
        """The checked config of overrides that are `readable`. Hydra is initialised.

        Raises:
            ConfigError: an unknown option or key, or a value of the wrong type.
        """
        options, lines = self.divided(overrides)
        values = [one for one in map(parsed, lines) if one]
        composition = self.of(options)
        unsettable = [one for one in values if not _is_leaf(composition.config, str(one.key_or_group))]
        if unsettable:  # an unknown key, or a group given one value: Hydra's error explains it
            composition, values = self.of(overrides), []
        try:
            with _set(composition, values):
                found = plain_dict(composition.config, complete=True)
        except UNREADABLE as error:
            raise ConfigError(explain(error, overrides)) from None
        _check_groups(found, composition.variant)
        plain = {**checked(found, composition.schema), "variant": composition.variant}
        return {key: _shared(value, composition.checked.get(key)) for key, value in plain.items()}

    def of(self, options: Sequence[str]) -> Composition:
        """The composition of some options, and of other overrides that only Hydra can apply.

        Raises:
            ConfigError: Hydra cannot compose them.
        """
        key = tuple(options)
        if key not in self._composed:
            try:
                self._composed[key] = self._compose(options)
            except ConfigError as error:
                self._composed[key] = error
        found = self._composed[key]
        if isinstance(found, ConfigError):
            raise ConfigError(str(found))
        return found

    @staticmethod
    def divided(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
        """The overrides that Hydra must compose, and those that set values, whose order among themselves is kept."""
        own = own_dirs()
        values: list[str] = []
        others: list[str] = []
        for override in overrides:
            one = parsed(override)
            (values if one and _is_value(one, own) else others).append(override)
        keys = [key_of(override) for override in others if not is_group(key_of(override), own)]
        if any(_overlap(key, key_of(value)) for key in keys for value in values):
            return list(overrides), []  # their order counts
        return others, values

    def _compose(self, options: Sequence[str]) -> Composition:
        if not options:
            return default_composition()
        own = own_dirs()
        sets_values = not all(_is_choice(option, own) for option in options)
        return self._from_option_files(options) or composed_by_hydra(options, self._schema if sets_values else None)

    def _from_option_files(self, options: Sequence[str]) -> Composition | None:
        """The default config with other options, whose files replace the groups of that name: much faster than Hydra.
        None where more than that may differ: with a study, or an option whose file has a package or defaults."""
        files = option_files(options)
        if not files:
            return None
        default = self.of(())
        config, variant = copy.deepcopy(default.config), dict(default.variant)
        OmegaConf.set_struct(config, False)
        for axis, (choice, file) in files.items():
            config[axis], variant[axis] = copy.deepcopy(file), choice
        OmegaConf.set_struct(config, True)
        return composition_of(config, plain_dict(config), variant)

    def _schema(self, variant: Mapping[str, str]) -> PlainConfig:
        """The config with the options of a variant and no other override."""
        options = [f"{group}={quote(choice)}" for group, choice in variant.items()]
        if found := self._from_option_files(options):
            return found.schema
        key = tuple(options)
        if key not in self._schemas:
            self._schemas[key] = plain_dict(hydra_compose("config", options))
        return self._schemas[key]


def _is_choice(override: str, own: Sequence[Path]) -> bool:
    """Whether an override chooses an option and does no more; a study sets values, too."""
    one, key = parsed(override), key_of(override)
    is_plain = one is not None and one.type is OverrideType.CHANGE and one.package is None
    return is_plain and is_group(key, own) and key != "experiment"


def _is_value(one: Override, own: Sequence[Path]) -> bool:
    """Whether an override sets a value that needs no Hydra: ``key=value``."""
    key = str(one.key_or_group)
    if one.type is not OverrideType.CHANGE or one.is_sweep_override() or one.package is not None or is_group(key, own):
        return False
    return not isinstance(one.value(), dict) and not key.startswith("hydra.")


def _overlap(one: str, other: str) -> bool:
    """Whether one of two dotted keys is the other, or a group that contains it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _is_leaf(config: DictConfig, key: str) -> bool:
    """Whether the config has such a key, which is no group."""
    found = _node(config, key)
    return found is not None and not isinstance(_content(found[0])[found[1]], DictConfig)


def _node(config: DictConfig, key: str) -> tuple[DictConfig, str] | None:
    """The group of a key and its name in there; None if the config does not have it."""
    group, *rest = key.split(".")
    node: Any = config
    for name in rest:
        node, group = _content(node).get(group), name
    return (node, group) if group in _content(node) else None


def _content(node: Any) -> dict[str, Any]:
    """The nodes of a group; empty if the node is no group."""
    content = node.__dict__["_content"] if isinstance(node, DictConfig) else None
    return content if isinstance(content, dict) else {}


@contextmanager
def _set(composition: Composition, values: Sequence[Override]) -> Iterator[None]:
    """Set values of a config as Hydra does, and restore it at the end."""
    before: list[tuple[DictConfig, str, Any]] = []
    try:
        for one in values:
            key = str(one.key_or_group)
            place = _node(composition.config, key)
            assert place is not None
            before.append((*place, copy.deepcopy(_content(place[0])[place[1]])))
            OmegaConf.update(composition.config, key, _value(one, composition.schema), merge=True)
        yield
    finally:
        for group, name, node in reversed(before):
            node._set_parent(group)
            _content(group)[name] = node


def _value(one: Override, schema: PlainConfig) -> Any:
    """The value of an override. A number for a text, or in a list of texts, is that text as typed: ``study=2e10``."""
    value, key, typed = one.value(), str(one.key_or_group), typed_value(str(one.input_line)).strip()
    group, _, name = key.rpartition(".")
    default = plain_value(schema, group, name)
    is_list = isinstance(default, list) and (isinstance(default[0], str) if default else key == FILES)
    if isinstance(value, list) and is_list:
        items = split(typed[1:-1])
        return list(map(_text, value, items)) if len(items) == len(value) else value
    return _text(value, typed) if isinstance(default, str) or is_list else value


def _text(value: Any, typed: str) -> Any:
    """A number or a truth value as the text that was typed; other values unchanged."""
    return typed.strip() if isinstance(value, int | float) else value


def _shared(value: Any, other: Any) -> Any:
    return other if value == other and type(value) is type(other) else value


def _check_groups(plain: PlainConfig, variant: Mapping[str, str]) -> None:
    """Reject an option whose file holds something else than keys."""
    for axis, option in variant.items():
        if not isinstance(plain.get(axis, {}), dict):
            kind = type(plain[axis]).__name__
            raise ConfigError(f"{axis}={option}: its YAML file holds a {kind}, expected keys such as _target_: ...")
