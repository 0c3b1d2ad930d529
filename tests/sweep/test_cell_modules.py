"""Which of the user's modules a checked cell records: those of its own config, whatever else the sweep checks."""

from pathlib import Path

import pytest
from command import OWN, OWN_CONF, TINY

from gptx.config.own_options import own_options
from gptx.sweep.plan.cell_checks import check_cells
from gptx.sweep.plan.cells import compose_cells


def test_a_cell_has_the_modules_of_its_own_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gptx.hardware.cpu.cores", lambda: 1)  # one process after the other
    monkeypatch.syspath_prepend(str(OWN))
    common = [*TINY, f"paths.outputs={tmp_path}", "data=pydocs", "runtime.unproven=true"]
    with own_options(Path(OWN_CONF[1])):
        cells = compose_cells([[*common, "attention=scaled"], [*common, "attention=mha"]])
    check_cells(cells, None)
    assert [cell.rejection for cell in cells] == ["", ""]
    assert ["mine" in cell.modules for cell in cells] == [True, False]
    assert ["mine" in cell.checked.code for cell in cells] == [True, False]
