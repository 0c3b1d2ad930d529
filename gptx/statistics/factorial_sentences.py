"""The effects of a grid of factors in sentences."""

import numpy as np

from gptx.statistics.factor_grid import FactorChange
from gptx.statistics.factorial import Factorial, FactorialEffect
from gptx.statistics.verdict import Verdict


def factorial_sentences(found: Factorial, scale: float = 1.0) -> tuple[str, ...]:
    """One sentence for each change of a factor and each other factor: the effects under its levels, and how much they
    differ. Differences are multiplied by ``scale``."""
    keys = dict.fromkeys((effect.changes[0], effect.at[0][0]) for effect in found.simple)
    return tuple(_sentence(found, change, other, scale) for change, other in keys)


def _sentence(found: Factorial, change: FactorChange, other: str, scale: float) -> str:
    simple = [e for e in found.simple if e.changes[0] == change and e.at[0][0] == other]
    interactions = {
        second.level: _interaction_text(e, found.margin, scale)
        for e in found.interactions
        for second in e.changes
        if change in e.changes and second.factor == other
    }
    several = len(interactions) > 1
    parts = [f"the interaction {f'with {name} ' if several else ''}{text}" for name, text in interactions.items()]
    return f"{change.level} (instead of {change.reference}) " + "; ".join([_effects_text(found, simple, scale), *parts])


def _effects_text(found: Factorial, simple: list[FactorialEffect], scale: float) -> str:
    """Such as ``lowers the loss by 0.49 ± 0.02 under full and by 0.47 ± 0.03 under sliding``."""
    texts, last = [], ""
    for effect in simple:
        verb, rest = _effect_parts(effect, found.metric, found.margin, scale)
        texts.append(f"{'' if verb == last else f'{verb} '}{rest} under {effect.at[0][1]}")
        last = verb
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _effect_parts(effect: FactorialEffect, metric: str, margin: float | None, scale: float) -> tuple[str, str]:
    """What the change does, and by how much."""
    if effect.interval is None:
        return f"has an unknown effect on the {metric}", _why(effect).removeprefix(": ")
    estimate, half = effect.estimate * scale, effect.half_width * scale
    if effect.verdict is Verdict.EQUIVALENT:
        return f"changes the {metric}", f"by less than {(margin or 0.0) * scale:g}"
    if effect.verdict is Verdict.UNDECIDED:
        return f"changes the {metric}", f"by {with_half_width(estimate, half, '+')} (undecided{_why(effect)})"
    return f"{'lowers' if estimate < 0 else 'raises'} the {metric}", f"by {with_half_width(abs(estimate), half)}"


def _interaction_text(effect: FactorialEffect, margin: float | None, scale: float) -> str:
    if effect.interval is None:
        return f"is unknown{_why(effect)}"
    if effect.verdict is Verdict.EQUIVALENT:
        return f"is within ± {(margin or 0.0) * scale:g}"
    size = f"is {with_half_width(effect.estimate * scale, effect.half_width * scale, '+')}"
    return f"{size} (undecided{_why(effect)})" if effect.verdict is Verdict.UNDECIDED else size


def _why(effect: FactorialEffect) -> str:
    return f": {effect.diverged} {'run' if effect.diverged == 1 else 'runs'} diverged" if effect.diverged else ""


def with_half_width(estimate: float, half_width: float, sign: str = "") -> str:
    """Both with the decimals of the first digit of the half width, such as ``0.490 ± 0.007``."""
    decimals = max(0, -int(np.floor(np.log10(half_width)))) if half_width > 0 else 3
    return f"{estimate:{sign},.{decimals}f} ± {half_width:,.{decimals}f}"
