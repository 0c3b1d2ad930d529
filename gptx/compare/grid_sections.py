"""The effects of factors as sentences and tables."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import margin_number, number, unit
from gptx.compare.effect_tables import EffectCells
from gptx.compare.findings import GridEffects
from gptx.compare.formatting import count
from gptx.compare.section import Section, difference_head, interval_text
from gptx.runs.metrics import Metric
from gptx.statistics.factorial import FactorialEffect
from gptx.statistics.factorial_sentences import factorial_sentences, with_half_width
from gptx.statistics.verdict import Verdict

_SENTENCES = 4  # as many are shown without being asked for
_INTERACTION = {Verdict.BETTER: "present", Verdict.WORSE: "present", Verdict.EQUIVALENT: "absent"}
COLUMNS = (
    *("kind", "factor", "level", "reference", "factor2", "level2", "reference2", "at_factor", "at_level", "metric"),
    *("unit", "difference", "low", "high", "verdict", "margin", "averaged", "combinations", "diverged"),
)


def factors_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each effect of a factor (kind main, simple or interaction); empty if the arms form no grid.

    A simple effect is taken at one level of another factor (``at_factor``, ``at_level``). ``averaged`` of
    ``combinations`` of the other factors have all the cells that the effect needs. Values have the unit of
    `gptx.runs.metrics` without its scale; NaN: unknown.
    """
    if comparison.grid is None:
        return pd.DataFrame(columns=list(COLUMNS))
    found = comparison.grid.effects
    kinds = (("main", found.main), ("simple", found.simple), ("interaction", found.interactions))
    records = [_record(comparison, kind, effect) for kind, effects in kinds for effect in effects]
    return pd.DataFrame(records, columns=list(COLUMNS))


def _record(comparison: Comparison, kind: str, effect: FactorialEffect) -> tuple[object, ...]:
    metric = comparison.metric
    changes = [text for change in effect.changes for text in (change.factor, change.level, change.reference)]
    at = effect.at[0] if effect.at else ("", "")
    limits = (effect.interval.low, effect.interval.high) if effect.interval else (float("nan"),) * 2
    shown_unit = metric.unit if metric.scale == 1 else ""
    head = (kind, *changes, *[""] * (6 - len(changes)), *at, metric.key, shown_unit, effect.estimate, *limits)
    return (*head, str(effect.verdict), comparison.margin, *effect.averaged, effect.diverged)


def grid_sections(comparison: Comparison, *, full: bool) -> list[Section]:
    """The main effects, and what they depend on: in short, or ``full``, in a sentence for each pair of factors and a
    table of all interactions. None if the arms form no grid."""
    grid, metric = comparison.grid, comparison.metric
    if grid is None:
        return []
    sentences = factorial_sentences(grid.effects, metric.scale)
    title = f"Effects of {_listed(grid.factors)} on {metric.title}{_in_unit(metric)}, averaged over the other factors"
    short = not full and len(sentences) > _SENTENCES
    lines = _interaction_lines(comparison, grid) if short else list(sentences)
    lines += _limits(grid)
    out = [Section(title=title, lines=tuple(lines), cells=_main_cells(metric, grid))]
    if full:
        text = "Interactions: how much one change alters the effect of the other"
        out.append(Section(title=text, cells=_interaction_cells(metric, grid)))
    return out


def _in_unit(metric: Metric) -> str:
    return f" in {metric.unit}" if metric.unit not in ("", metric.title) else ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _limits(grid: GridEffects) -> list[str]:
    """What limits the averages."""
    if not grid.missing:
        return []
    cells = count(len(grid.missing), "combination")
    return [f"{cells} of levels have no finished run; averages are over the combinations that have all levels"]


def _main_cells(metric: Metric, grid: GridEffects) -> EffectCells:
    rows = [
        (
            one.changes[0].factor,
            f"{one.changes[0].level} (instead of {one.changes[0].reference})",
            *_figures(metric, one),
        )
        for one in grid.effects.main
    ]
    notes = [_note(one) for one in grid.effects.main]
    return _cells(("factor", "level", difference_head(metric), "95 % interval", "effect"), rows, notes)


def _interaction_cells(metric: Metric, grid: GridEffects) -> EffectCells:
    rows = []
    for one in grid.effects.interactions:
        first, second = one.changes
        *figures, _ = _figures(metric, one)
        what = f"{first.factor}={first.level} and {second.factor}={second.level}"
        rows.append((what, *figures, _INTERACTION.get(one.verdict, str(one.verdict))))
    notes = [_note(one) for one in grid.effects.interactions]
    return _cells(("changes", difference_head(metric), "95 % interval", "interaction"), rows, notes)


def _cells(heads: tuple[str, ...], rows: list[tuple[str, ...]], notes: list[str]) -> EffectCells:
    """The cells, with a column of notes if there are any."""
    if not any(notes):
        return EffectCells(heads, tuple(rows))
    return EffectCells((*heads, "note"), tuple((*row, note) for row, note in zip(rows, notes, strict=True)))


def _figures(metric: Metric, effect: FactorialEffect) -> tuple[str, ...]:
    interval = interval_text(metric, effect.interval)
    return number(metric, effect.estimate, signed=True), interval, str(effect.verdict)


def _note(effect: FactorialEffect) -> str:
    used, possible = effect.averaged
    parts = [f"over {used} of {count(possible, 'combination')}" if used < possible else ""]
    parts.append(f"{count(effect.diverged, 'run')} diverged" if effect.diverged else "")
    return ", ".join(filter(None, parts))


def _interaction_lines(comparison: Comparison, grid: GridEffects) -> list[str]:
    """One line for each pair of factors."""
    pairs: dict[tuple[str, str], list[FactorialEffect]] = {}
    for effect in grid.effects.interactions:
        pairs.setdefault((effect.changes[0].factor, effect.changes[1].factor), []).append(effect)
    return [f"{f} × {g}: {_interactions_text(comparison, found)}" for (f, g), found in pairs.items()]


def _interactions_text(comparison: Comparison, found: list[FactorialEffect]) -> str:
    metric = comparison.metric
    counts = Counter(_INTERACTION.get(effect.verdict, "undecided") for effect in found)
    absent = f" (within ±{margin_number(comparison)}{unit(metric)})"
    words = [
        f"{f'{n} ' * (len(found) > 1)}{word}{absent * (word == 'absent')}"
        for word in ("present", "absent", "undecided")
        if (n := counts[word])
    ]
    head = f"of {len(found)} interactions, {_listed(words)}" if len(found) > 1 else f"interaction {words[0]}"
    known = [effect for effect in found if effect.interval]
    if not known:
        return head
    largest = max(known, key=lambda effect: abs(effect.estimate))
    size = with_half_width(largest.estimate * metric.scale, largest.half_width * metric.scale, "+")
    which = " with ".join(change.level for change in largest.changes)
    return f"{head}; {'largest: ' * (len(found) > 1)}{size} ({which})"
