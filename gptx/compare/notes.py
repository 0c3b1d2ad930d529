"""What makes the rows of a comparison not comparable, or not to be believed."""

import math
from collections import Counter
from collections.abc import Hashable

import pandas as pd

from gptx.compare import table as t
from gptx.compare.table import Row, value_of
from gptx.compare.text import SHOWN, axes, count, plain, titled, variant_name
from gptx.config.axes import run_name_axes

_VALIDATION_SET = ("trainer.val_tokens", "data.val_fraction", "model.context")
_FP32, _LOW = 1e-3, 1e-2  # how far, relatively, rounding alone may drive two strategies apart


def warnings(frame: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """What makes the rows of a summary not comparable, or not to be believed: one line each."""
    out = [problem for problem in frame["problem"] if problem]
    repeats = t.counts(frame).get("finished", 0) - len(t.chosen(frame))
    if repeats:
        out.append(f"{count(repeats, 'run')} left out: same variant and seed as a newer one")
    ended = summary[summary["status"] == "finished"] if "status" in summary else summary
    parts = [part for _, part in ended.groupby("corpus_hash", sort=False)]
    if len(parts) > 1:
        texts = sorted(f"{part['data'].iloc[0]} {str(part['corpus_hash'].iloc[0])[:8]}" for part in parts)
        out.append(f"different corpora ({', '.join(texts)}): figures compare within one table only")
    for part in parts:
        where = f"{part['data'].iloc[0]}: " if len(parts) > 1 else ""
        named = titled(part, str(part["corpus_hash"].iloc[0]))[0] if len(parts) > 1 else part
        out += [where + line for line in (*_budgets(part), *_seed_sets(named), *_measures(part))]
    rows = t.chosen(frame)
    return out + _gaps(rows) + _codes(rows) + _strategies(rows)


def _gaps(rows: list[Row]) -> list[str]:
    """A figure that some runs lack: its means are over fewer runs than n says."""
    lacks = {m.head: sum(math.isnan(row[m.key]) for row in rows) for m in SHOWN}
    return [f"{head} is missing in {n} of {count(len(rows), 'run')}" for head, n in lacks.items() if n]


def _codes(rows: list[Row]) -> list[str]:
    """The user's own modules that said one thing when some runs began, and another when others did."""
    said: dict[str, Counter[str]] = {}
    for row in rows:
        for name, digest in row["code"].items():
            said.setdefault(name, Counter())[digest] += 1
    return [
        f"not the same code: {name} was changed between runs ({' and '.join(map(str, found.values()))} of them)"
        for name, found in sorted(said.items())
        if len(found) > 1
    ]


def _budgets(part: pd.DataFrame) -> list[str]:
    out = []
    for name in ("steps", "tokens"):
        found = sorted({x for values in part[name] for x in values})
        if len(found) > 1:
            each = ", ".join(f"{x:,}" for x in found)
            out.append(f"not the same budget: {name} {each if len(found) < 5 else f'{found[0]:,} to {found[-1]:,}'}")
    if len(set(part["tokenizer_hash"])) > 1:
        out.append(
            "different tokenizers: val loss is per token and does not compare; bits/byte does, over the same "
            "text only if trainer.val_tokens=0"
        )
    held = [name for name in axes(part) if name.startswith(_VALIDATION_SET)]
    if held:
        out.append(f"not the same validation set ({', '.join(held)}): losses do not compare")
    return out


def _seed_sets(part: pd.DataFrame) -> list[str]:
    having: dict[str, list[str]] = {}
    for row in part.to_dict("records"):
        having.setdefault(", ".join(map(str, row["seeds"])), []).append(variant_name(row, axes(part)))
    if len(having) < 2:
        return []
    found = sorted(having.items(), key=lambda item: (-len(item[1]), item[0]))
    sets = (f"{seeds} in {', '.join(v) if len(v) < 3 else f'{len(v)} variants'}" for seeds, v in found)
    return [f"not the same seeds: {'; '.join(sets)}"]


def _measures(part: pd.DataFrame) -> list[str]:
    hardware, devices = ({x for found in part[name] for x in found} for name in ("hardware", "device"))
    if len(hardware) < 2:
        return []
    what = "tokens/s and peak memory do" if len(devices) > 1 else "tokens/s does"
    return [f"different hardware ({'; '.join(sorted(hardware))}): {what} not compare"]


def _strategies(rows: list[Row]) -> list[str]:
    """Strategy is a null factor: runs that differ in nothing else must agree up to rounding. Not with dropout: each
    process draws masks of its own."""
    alike: dict[Hashable, list[Row]] = {}
    for row in rows:
        if row["status"] == "finished" and row["val_loss"] > 0 and not value_of(row, "model.dropout"):
            alike.setdefault((t.key_of(row, without="strategy"), t.seed_of(row)), []).append(row)
    found = []
    for same in alike.values():
        same.sort(key=lambda row: row["val_loss"])
        low, high = same[0], same[-1]
        apart = high["val_loss"] / low["val_loss"] - 1
        if apart > (_FP32 if low["dtype"] == "float32" else _LOW):
            found.append((apart, low, high))
    if not found:
        return []
    apart, low, high = max(found, key=lambda one: one[0])
    one, two = value_of(low, "strategy"), value_of(high, "strategy")
    name = "·".join(plain(value_of(low, axis)) for axis in run_name_axes() if axis != "strategy")
    name += f", seed {t.seed_of(low)}"
    text = f"strategy cannot change the loss, yet {two} ends {apart:.2%} above {one} ({name}: "
    more = f", and {count(len(found) - 1, 'other pair')}" if len(found) > 1 else ""
    return [f"{text}{high['val_loss']:.4f} against {low['val_loss']:.4f}{more}): a bug is suspected"]
