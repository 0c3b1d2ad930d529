"""The cells of a sweep with `match`: their overrides give all arms the same budget."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.config.compositions import Compositions
from gptx.sweep.plan import matching
from gptx.sweep.plan.cells import Cell, with_overrides
from gptx.training.run_location import Known

if TYPE_CHECKING:
    from gptx.hardware.device import Machine


def matched_cells(
    cells: list[Cell], options: DictConfig, machine: "Machine | None", compositions: Compositions
) -> list[Cell]:
    """The cells, changed so that all arms have the same budget if `match` is set."""
    able = [cell for cell in cells if not cell.rejection]
    if options.variant.match == "none" or not able:
        return cells
    found = matching.match_budgets([cell.config for cell in able], options, machine)
    return _apply(cells, dict(zip(map(id, able), found, strict=True)), compositions)


def _apply(
    cells: Sequence[Cell], found: dict[int, matching.Matched | matching.Unmatched], compositions: Compositions
) -> list[Cell]:
    changed, known = [], Known()
    for cell in cells:
        match = found.get(id(cell))
        if isinstance(match, matching.Matched):
            changed.append(with_overrides(cell, match.overrides, match.note, compositions, known))
            continue
        if match:
            cell.rejection = match.reason
        changed.append(cell)
    return changed
