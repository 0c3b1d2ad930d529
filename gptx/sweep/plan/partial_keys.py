"""Keys that some combinations of a sweep have and others have not: ``window=full,sliding window.size=16``.

Such a key reaches the combinations that have it. The others run without it, as if it had not been given.
"""

from collections.abc import Sequence

from gptx.config.compose import initialised
from gptx.config.compositions import Compositions
from gptx.config.overrides import key_of
from gptx.config.parsing import readable
from gptx.errors import ConfigError

Options = tuple[str, ...]


class PartialKeys:
    """The keys that some combinations have and others have not.

    Args:
        combinations: overrides of the combinations, or in a search of some that have every option.
        compositions: sets of options that are composed already; new ones are added.
    """

    def __init__(self, combinations: Sequence[Sequence[str]], compositions: Compositions) -> None:
        self._compositions = compositions
        self._missing: dict[Options, dict[str, bool]] = {}  # by options and key
        self._given: dict[str, str] = {}  # an override of each key
        with initialised():
            for overrides in combinations:
                self._add(overrides)
        has, lacks = (
            {key for keys in self._missing.values() for key, missing in keys.items() if missing is wanted}
            for wanted in (False, True)
        )
        self._keys = has & lacks

    def _add(self, overrides: Sequence[str]) -> None:
        options, values = self._compositions.divided(list(map(readable, overrides)))
        missing = self._missing.setdefault(tuple(options), {})
        for override in values:
            if (key := key_of(override)) not in missing:
                self._given.setdefault(key, override)
                try:
                    missing[key] = not self._compositions.of(options).has(key)
                except ConfigError:  # the combination will be rejected
                    return

    def applied(self, overrides: Sequence[str]) -> list[str]:
        """The overrides of a combination without the keys that it has not and others have."""
        if not self._keys:
            return list(overrides)
        with initialised():
            self._add(overrides)
        options, _ = self._compositions.divided(list(map(readable, overrides)))
        missing = self._missing[tuple(options)]
        return [one for one in overrides if not (key_of(one) in self._keys and missing.get(key_of(one)))]

    def all_applied(self, combinations: Sequence[Sequence[str]]) -> list[list[str]]:
        """Every combination with `applied`; combinations that become equal are one."""
        return list(map(list, dict.fromkeys(tuple(self.applied(overrides)) for overrides in combinations)))

    def remark(self) -> str:
        """A line that names the keys and the options without them; empty if there are none."""
        parts = []
        for key in sorted(self._keys):
            group = key.partition(".")[0]
            chosen = [
                (next((one for one in options if key_of(one) == group), f"the default {group}"), keys.get(key))
                for options, keys in self._missing.items()
            ]
            has = dict.fromkeys(name for name, missing in chosen if missing is False)
            lacks = dict.fromkeys(name for name, missing in chosen if missing)
            parts.append(f"{key} is a key of {', '.join(has)}; {', '.join(lacks)} runs without it")
        return "; ".join(parts)
