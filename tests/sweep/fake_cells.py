"""Cells of a sweep and results of their runs, made without composing each one and without training."""

from pathlib import Path
from typing import Any

from composed import composed

from gptx.config.plain_dict import plain_dict
from gptx.runs.atomic_files import write_json
from gptx.runs.folder import RunFolder
from gptx.runs.json_codec import to_json
from gptx.runs.preflight_facts import DataFacts, Hardware, RunFacts
from gptx.sweep.plan.cells import Cell

MB = 10**6
TINY = (
    "device=cpu", "precision=fp32", "model.n_layer=1", "model.d_model=32", "model.context=32", "trainer.max_steps=10",
    "trainer.batch_size=8", "trainer.eval_every=5", "trainer.val_tokens=300", "runtime.threads=1",
)  # fmt: skip
FACTS = RunFacts(
    hardware=Hardware(device="cpu", name="a CPU", cpu="a CPU", cores=2, memory_bytes=8 * 10**9),
    dtype="float32",
    n_params=2000,
    flops_per_token=1000,
    data=DataFacts(val_tokens=150),
    tokenizer={},
)


def fake_cell(tmp_path: Path, *overrides: str, seed: int = 0, rejection: str = "") -> Cell:
    """A cell after `check_cells`: 1000 FLOPs per token, 2000 parameters, 150 validation tokens."""
    cfg = composed(*TINY, *overrides)
    cfg.seed, cfg.paths.outputs = seed, str(tmp_path)
    title = " ".join(overrides)
    folder = RunFolder(tmp_path / "s" / f"{title}{seed}".replace(" ", "·"))
    return Cell(
        [*overrides], f"{title} seed={seed}", title, plain_dict(cfg), folder, rejection, None if rejection else FACTS
    )


def fake_result(cell: Cell, **others: Any) -> None:
    """Write the result of a finished run of the cell, with 256 tokens per second."""
    assert cell.folder is not None
    cell.folder.path.mkdir(parents=True)
    (cell.folder.path / "journal.jsonl").touch()
    plain = cell.config
    measured = {"tokens_per_s": 256.0, "peak_memory_bytes": 400 * MB}
    facts = {**to_json(cell.checked), "status": "finished", "config": plain, "variant": plain["variant"]}
    write_json(cell.folder.path / "result.json", {**facts, **measured, **others})
