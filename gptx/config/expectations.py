"""What a study expects, in a form that its results can be checked against: ``about.expect`` in its YAML.

Each line compares arms by their validation losses: ``pos=rope < pos=learned`` (rope ends with a lower loss) or
``attention=gqa ~ attention=mha`` (the losses differ by less than the margin). Both sides give the same keys. A side may
list values, ``pos=rope,xpos < pos=learned``, for one comparison of each.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

from gptx.config.plain_dict import PlainConfig, plain_value
from gptx.errors import ConfigError

Relation = Literal["<", "~"]
_RELATIONS: tuple[Relation, ...] = ("<", "~")


@dataclass(frozen=True)
class Expectation:
    """A comparison of two arms.

    Attributes:
        arm: the values that the arm has, by key.
        relation: ``<``: the arm has a lower loss than the other; ``~``: the losses are equivalent.
        other: the values that the other arm has for the same keys.
    """

    arm: dict[str, str]
    relation: Relation
    other: dict[str, str]

    def __str__(self) -> str:
        return f"{pairs_text(self.arm)} {self.relation} {pairs_text(self.other)}"


def pairs_text(pairs: dict[str, str]) -> str:
    """``pos=rope window=full``."""
    return " ".join(f"{key}={value}" for key, value in pairs.items())


def parse_pairs(text: str) -> dict[str, str]:
    """The keys and values of ``pos=rope window=full``.

    Raises:
        ConfigError: something else.
    """
    found = dict(word.partition("=")[::2] for word in text.split())
    if not found or not all(key and value for key, value in found.items()) or len(found) < len(text.split()):
        raise ConfigError(f"{text!r} names no arm; expected key=value, for several keys with blanks between them")
    return found


def parse_expectations(text: str) -> list[Expectation]:
    """Read one line of ``about.expect``: every arm of the left side against every arm of the right side.

    Raises:
        ConfigError: it has another form, or its sides give different keys.
    """
    form = "expected such as 'pos=rope < pos=learned' (lower loss) or 'attention=gqa ~ attention=mha' (equal loss)"
    for relation in _RELATIONS:
        left, found, right = str(text).partition(f" {relation} ")
        if found:
            pairs = [Expectation(arm, relation, other) for arm, other in product(_arms(left), _arms(right))]
            if any(set(one.arm) != set(one.other) or one.arm == one.other for one in pairs):
                raise ConfigError(f"about.expect={text!r}: both sides need the same keys and other values; {form}")
            return pairs
    raise ConfigError(f"about.expect={text!r}: {form}")


def _arms(side: str) -> list[dict[str, str]]:
    """The arms of one side: all combinations of its values."""
    values = {key: value.split(",") for key, value in parse_pairs(side).items()}
    return [dict(zip(values, found, strict=True)) for found in product(*values.values())]


def check_expectations(plain: PlainConfig) -> None:
    """Check ``about.expect``, ``about.baseline`` and ``about.margin``.

    Raises:
        ConfigError: one of them cannot be read; the message names it.
    """
    for line in plain_value(plain, "about", "expect") or ():
        parse_expectations(line)
    if baseline := plain_value(plain, "about", "baseline"):
        parse_pairs(baseline)
