"""How much of a difference is due to the choice of the validation text: the losses of its units, paired."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gptx.compare.arms import Arm
from gptx.compare.findings import ArmTextDoubt
from gptx.compare.run_rows import RunRow
from gptx.errors import ConfigError
from gptx.runs.unit_losses import UnitLosses, read_unit_losses
from gptx.statistics.block_model import Floats
from gptx.statistics.text import text_differences, text_verdict

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison

_METRIC = "val_loss"  # the one whose values are the sums of the units' losses on the report half


def text_doubts(comparison: "Comparison") -> tuple[ArmTextDoubt, ...]:
    """One for each arm but the baseline. Nothing for other metrics than the validation loss, or where no run of the
    baseline has its file of losses (those of earlier versions)."""
    baseline = comparison.baseline
    if baseline is None or comparison.metric.key != _METRIC:
        return ()
    base = _losses(baseline)
    if not base:
        return ()
    reference = next(iter(base.values()))
    paired = {one.arm.name: _paired(one.arm, base, reference) for one in comparison.arms}
    known = {name: found for name, found in paired.items() if not isinstance(found, str)}
    tokens = reference.tokens[reference.report].astype(float)
    results = dict(zip(known, text_differences(np.array(list(known.values())), tokens) if known else (), strict=True))
    out = []
    for one in comparison.arms:
        name, effect = one.arm.name, one.effect
        if name not in results:
            out.append(ArmTextDoubt(arm=name, problem=str(paired[name])))
            continue
        verdict = text_verdict(effect.verdict, effect.error, results[name], comparison.margin)
        out.append(ArmTextDoubt(arm=name, difference=results[name], verdict=verdict))
    return tuple(out)


def _losses(arm: Arm) -> dict[int | str, UnitLosses]:
    """The losses of an arm's finished runs, by seed; of those that have the file."""
    return {row.seed_label: found for row in arm.rows if not row.diverged and (found := _read(row))}


def _read(row: RunRow) -> UnitLosses | None:
    try:
        found = read_unit_losses(Path(row.run))
    except (OSError, ConfigError, ValueError):
        return None
    return found if found.report.any() else None


def _paired(arm: Arm, base: dict[int | str, UnitLosses], reference: UnitLosses) -> Floats | str:
    """The differences in nats of the report half's units, averaged over the seeds that both have, of shape (units,); or
    why there are none."""
    own = {seed: found for seed, found in _losses(arm).items() if seed in base}
    if not own:
        return "no run has the losses of the units (validation.safetensors) of a seed of the baseline"
    if not all(_same_text(losses, reference) for losses in (*own.values(), *(base[seed] for seed in own))):
        return "the runs were validated on other units of text"
    half = reference.report
    return np.asarray(np.mean([own[seed].nats[half] - base[seed].nats[half] for seed in own], axis=0))


def _same_text(one: UnitLosses, other: UnitLosses) -> bool:
    names = ("document", "offset", "tokens", "report")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
