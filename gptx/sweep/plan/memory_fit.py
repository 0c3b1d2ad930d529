"""Whether a sweep's runs fit into this machine's memory, what would make one fit, and how many fit side by side."""

import bisect
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gptx.config.compose import plain_dict
from gptx.config.overrides import conf_dir
from gptx.data.from_config import tokens
from gptx.errors import GptxError
from gptx.memory.estimate import BASE, estimate, machine_memory
from gptx.sweep.execute.isolated import each
from gptx.sweep.plan.cells import Cell, no_estimate

COMPUTES = (
    "model attention pos window ffn norm placement kernel strategy tokenizer data compile activation_checkpointing"
)


def check_memory(
    cells: Sequence[Cell], jobs: int, here: bool = True, rooms: dict[str, int] | None = None
) -> tuple[int, str]:
    """Estimate ``facts["memory_bytes"]`` of what is to run; refuse what is too large for this machine.

    Args:
        jobs: how many are to run at once.
        here: whether they will run on this machine; elsewhere nothing is refused.
        rooms: by device, what this machine had free before runs of the sweep took of it; what is not in it is added.

    Returns:
        How many fit side by side, at most ``jobs``; and where that is less, a line that says so.
    """
    todo = [cell for cell in cells if not cell.refusal and not cell.done]
    alike = {_what_counts(cell): cell for cell in todo}
    given = [(plain_dict(cell.cfg), cell.facts) for cell in alike.values()]
    found = dict(zip(alike, each(_bytes, given, lost=str), strict=True))  # a text: why it is not known
    for what, size in found.items():
        if isinstance(size, str):
            no_estimate(f"what {alike[what].title} holds")(size)
    for cell in todo:
        if isinstance(size := found[_what_counts(cell)], int):
            cell.facts["memory_bytes"] = size
    if not here:
        return jobs, ""
    known = [cell for cell in todo if "memory_bytes" in cell.facts]
    rooms = {} if rooms is None else rooms
    rooms |= {kind: machine_memory(kind) for kind in set(map(_kind, known)) - rooms.keys()}
    return _against_machine(known, jobs, rooms)


def fit(cells: Sequence[Cell], rooms: Mapping[str, int]) -> bool:
    """Whether they may run side by side, as far as is known. ``rooms``: see `check_memory`; a GPU is one run's own."""
    sizes, room = _shared([cell for cell in cells if "memory_bytes" in cell.facts], rooms)
    return len(sizes) < 2 or not room or sum(sizes) <= room


def _shared(cells: Sequence[Cell], rooms: Mapping[str, int]) -> tuple[list[int], int]:
    """What runs hold of the memory that all of them share, the largest first, and how much of it is free; 0: that is
    not known."""
    sizes = sorted((_of_run(cell.facts) for cell in cells if _kind(cell) != "cuda"), reverse=True)
    return sizes, min((room for kind, room in rooms.items() if kind != "cuda"), default=0)


def _what_counts(cell: Cell) -> str:
    """Of a config, for memory: combinations that differ in a rate or a seed need as much."""
    plain, facts = plain_dict(cell.cfg), cell.facts
    batch = [plain["trainer"]["batch_size"], plain["trainer"]["micro_batch"], plain["runtime"]["val_batch"]]
    where = [facts["hardware"]["device"], facts["dtype"], facts["processes"]]
    return json.dumps([[plain[key] for key in COMPUTES.split()], batch, where])


def _against_machine(cells: Sequence[Cell], jobs: int, rooms: Mapping[str, int]) -> tuple[int, str]:
    advised: dict[str, str] = {}
    for cell in cells:
        room = rooms[_kind(cell)]
        if _of_run(cell.facts) > room:
            key = _what_counts(cell)
            if key not in advised:
                [ways] = each(
                    ways_out, [(plain_dict(cell.cfg), cell.facts, room)], no_estimate(f"what would do for {cell.title}")
                )
                advised[key] = " or ".join(ways or ["a smaller model.d_model or model.n_layer"])
            cell.refusal = f"{_too_large(cell, room)}: {advised[key]} would do"
    sizes, room = _shared([cell for cell in cells if not cell.refusal], rooms)
    if sum(sizes[:jobs]) <= room:
        return jobs, ""
    most = bisect.bisect_right(list(accumulate(sizes)), room)
    return (
        most,
        f"{most} at once instead of {jobs}: the largest would hold about {human(sizes[0])} of {human(room)} free",
    )


def _kind(cell: Cell) -> str:
    return str(cell.facts["hardware"]["device"])


def _too_large(cell: Cell, room: int) -> str:
    count = cell.facts["processes"]
    who = f"its {count} processes" if count > 1 and _kind(cell) != "cuda" else "a process of it" if count > 1 else "it"
    there = "of a GPU here" if _kind(cell) == "cuda" else "that are free here"
    return f"{who} would hold about {human(_of_run(cell.facts))}, more than the {human(room)} {there}"


def _of_run(facts: Mapping[str, Any]) -> int:
    """On a CPU all processes of a run share the machine, its command among them; each GPU is one process's."""
    one, count = int(facts["memory_bytes"]), facts["processes"]
    return one if facts["hardware"]["device"] == "cuda" or count == 1 else count * one + BASE


def _bytes(given: tuple[dict[str, Any], dict[str, Any]]) -> int:
    plain, facts = given
    return _size(OmegaConf.create(plain), facts)


def _size(cfg: DictConfig, facts: Mapping[str, Any]) -> int:
    dtype = getattr(torch, facts["dtype"])
    n_vocab = tokens(cfg).tokenizer.n_vocab
    return estimate(cfg, n_vocab, facts["hardware"]["device"], dtype, facts["processes"]).total


def ways_out(given: tuple[dict[str, Any], dict[str, Any], int]) -> list[str]:
    """Settings with which a run would fit into so many bytes, each with what it would hold; the mildest first."""
    plain, facts, room = given

    def need(changed: Mapping[str, Any]) -> float:
        cfg = OmegaConf.create(plain)
        for key, value in changed.items():
            OmegaConf.update(cfg, key, value, merge=False)
        try:
            return _of_run({**facts, "memory_bytes": _size(cfg, facts)})
        except GptxError:  # it cannot be so: a pipeline that is not filled
            return float("inf")

    rows = plain["trainer"]["micro_batch"] or plain["trainer"]["batch_size"]
    less = [n for n in range(1, rows) if rows % n == 0]
    saving = {"activation_checkpointing": True}
    tried = [
        _most(less, lambda n: {"trainer.micro_batch": n}, need, room),
        saving,
        _most(less, lambda n: {"trainer.micro_batch": n, "runtime.val_batch": n}, need, room),
        _most(less, lambda n: {"trainer.micro_batch": n, "runtime.val_batch": n, **saving}, need, room),
    ]
    if facts["processes"] > 1 and plain["variant"]["strategy"] == "ddp":
        sharded = OmegaConf.to_container(OmegaConf.load(conf_dir() / "strategy" / "fsdp.yaml"))
        tried.append({"strategy": {**sharded, "nproc": facts["processes"]}})  # type: ignore[dict-item]
    ways = []
    for changed in tried:
        if changed and (size := need(changed)) <= room:
            words = " ".join(f"{key}={_word(value)}" for key, value in changed.items())
            ways.append(f"{words} (about {human(size)})")
    return ways[:2]


def _most(
    numbers: Sequence[int], change: Callable[[int], dict[str, Any]], need: Callable[[dict[str, Any]], float], room: int
) -> dict[str, Any]:
    """The change by the largest number that fits; {}: none."""
    fits = bisect.bisect_left(numbers, True, key=lambda n: need(change(n)) > room)
    return change(numbers[fits - 1]) if fits else {}


def _word(value: Any) -> str:
    return "fsdp" if isinstance(value, dict) else str(value).lower()


def human(size: float) -> str:
    """Bytes, two digits of them: no estimate knows more."""
    size = float(f"{size:.1e}")
    return f"{size / 1e9:.{size < 1e10:d}f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
