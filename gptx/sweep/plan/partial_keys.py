"""Keys that some combinations of a sweep have and others have not: ``window=full,sliding window.size=16``.

Such a key reaches the combinations that have it. The others run without it, as if it had not been given. It may also be
given in the file of a study, and is then deleted (``~window.size``) where an option does not have it.
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
        self._has: dict[Options, dict[str, bool]] = {}  # whether the options have the given keys
        self._of_study: dict[Options, list[str]] = {}  # keys that the study's file sets and the options do not have
        self._partial: set[str] = set()
        with initialised():
            for overrides in combinations:
                self._add(overrides)
            for key in {key for keys in self._of_study.values() for key in keys}:
                for options, found in self._has.items():
                    found[key] = self._compositions.of(options).has(key)
        given = [item for keys in self._has.values() for item in keys.items()]
        self._partial = {key for key, has in given if has} & {key for key, has in given if not has}

    def _add(self, overrides: Sequence[str]) -> Options | None:
        """The options of a combination, whose keys are now known; None if they cannot be composed."""
        options, values = self._compositions.divided(list(map(readable, overrides)))
        key = tuple(options)
        try:
            composition = self._compositions.of(options)
        except ConfigError:  # the combination will be rejected
            return None
        if key not in self._has:
            self._has[key], self._of_study[key] = {}, composition.unknown()
        for name in map(key_of, values):
            if name not in self._has[key]:
                self._has[key][name] = composition.has(name)
        return key

    def applied(self, overrides: Sequence[str]) -> list[str]:
        """The overrides of a combination without the keys that it has not and others have."""
        if not self._partial:
            return list(overrides)
        with initialised():
            options = self._add(overrides)
        if options is None:
            return list(overrides)
        has = self._has[options]
        kept = [one for one in overrides if has.get(key_of(one), True) or key_of(one) not in self._partial]
        return [*kept, *(f"~{key}" for key in self._of_study[options] if key in self._partial)]

    def all_applied(self, combinations: Sequence[Sequence[str]]) -> list[list[str]]:
        """Every combination with `applied`; combinations that become equal are one."""
        return list(map(list, dict.fromkeys(tuple(self.applied(overrides)) for overrides in combinations)))

    def remark(self) -> str:
        """A line that names the keys and the options without them; empty if there are none."""
        parts = []
        for key in sorted(self._partial):
            group = key.partition(".")[0]
            names: dict[bool, list[str]] = {True: [], False: []}
            for options, has in self._has.items():
                if key in has:
                    names[has[key]].append(
                        next((one for one in options if key_of(one) == group), f"the default {group}")
                    )
            having, lacking = (", ".join(dict.fromkeys(names[has])) for has in (True, False))
            parts.append(f"{key} is a key of {having}; {lacking} runs without it")
        return "; ".join(parts)
