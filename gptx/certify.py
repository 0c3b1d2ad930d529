"""The resume certificate: ``python -m gptx.certify RUN_DIR`` trains a stretch of a run again, from one of its
checkpoints to a later one, in a folder that is thrown away, and compares what comes out with what the run wrote:
the hashes of the batches, losses and gradient norms step by step, and all weights and moments at the end.

It takes the run's own config, strategy and number of processes. The verdict is written to RUN_DIR/certificate.json.
Exit code: 0 the same bit for bit (within 1e-5 where hardware, torch or the number of processes are others than the
run's), 1 it differs or does not come to the end, 2 it cannot be tried.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gptx.cli import Parser
from gptx.config.plain import plain_dict
from gptx.config.saved import load_config
from gptx.errors import ConfigError, GptxError, Interrupted
from gptx.runs.checkpoint_files import damage, number, step_name, steps
from gptx.runs.files import write_json
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import StartRecord

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    try:
        args = _parser().parse_args(argv)
        folder = RunFolder(args.run_dir.resolve())
        start = _start_of(folder)
        with folder.lock(), tempfile.TemporaryDirectory(prefix="gptx-") as place:
            verdict = _certify(folder, start, args.start, RunFolder(Path(place) / folder.path.name))
            if verdict is None:
                return INTERRUPTED
            write_json(folder.path / "certificate.json", verdict)
    except (GptxError, OSError) as error:
        print(f"gptx: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    if args.json:
        print(json.dumps(verdict, indent=1, ensure_ascii=False))
    else:
        _show(verdict, args.run_dir)
    return 0 if verdict["passed"] else 1


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gptx.certify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, help="the folder of a run, e.g. outputs/default/mha·rope·full·ddp·s0-…")
    parser.add_argument(
        "--from",
        dest="start",
        type=int,
        metavar="STEP",
        help="train from the checkpoint of this step (0: from the start) to the next one that is kept "
        "(default: from the oldest that is kept to the newest; where only one is, from the start to it)",
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as certificate.json has it")
    return parser


def _start_of(folder: RunFolder) -> StartRecord:
    start = folder.start_record() if (folder.path / "config.yaml").exists() else None
    if start is None:
        raise ConfigError(f"{folder.path} is not a run folder: it has no config.yaml or no journal")
    return start


def _certify(folder: RunFolder, start: StartRecord, given: int | None, again: RunFolder) -> dict[str, Any] | None:
    """Train again and compare; None: interrupted."""
    import torch

    from gptx.hardware.device import pick
    from gptx.training.certificate import conditions, verdict
    from gptx.training.preflight import preflight

    first, last = _stretch(folder, given)
    cfg = load_config(folder.path)
    begun = first or (start.resume_source.step if start.resume_source else 0)
    before = conditions(folder, begun, last)
    with _where_it_was_started(cfg, folder):
        cfg.resume_from = _origin(cfg, start, first)
        cfg.tracking.enabled = False
        cfg.strategy.nproc = before[-1]["processes"]
        if pick(cfg.device.type).type == "cuda":
            cfg.strategy.nproc = min(cfg.strategy.nproc, torch.cuda.device_count())
        ready = preflight(cfg)
        strategy, facts = ready.strategy, ready.facts
        _begin(folder, start, again, first)
        began = time.monotonic()
        if not _train(cfg, again.path, last, strategy.in_process, facts.processes):
            return None
    return verdict(folder, again, start, (begun, last), before, facts) | {"seconds": time.monotonic() - began}


def _stretch(folder: RunFolder, given: int | None) -> tuple[int, int]:
    """The first and the last step, each with a checkpoint that is whole (or 0, the start).

    Raises:
        ConfigError: there is none such.
    """
    found = {number(path): damage(path) for path in steps(folder.checkpoints)}
    damaged = [f"{step_name(step)} is damaged ({why})" for step, why in found.items() if why]
    kept = [step for step, why in found.items() if why is None]
    if not kept:
        reason = "; ".join(damaged) or "it has to train to its first validation"
        raise ConfigError(f"{folder.path} has no checkpoint to compare with: {reason}")
    if given is None:
        for line in damaged:
            print(f"gptx: {line}: passed over", file=sys.stderr)
        return (kept[0], kept[-1]) if len(kept) > 1 else (0, kept[-1])
    if given not in (0, *kept[:-1]):
        names, starts = (", ".join(map(str, these)) for these in (kept, (0, *kept[:-1])))
        reason = "; ".join(["", *damaged])
        raise ConfigError(f"--from {given}: whole are the checkpoints of steps {names}: expected {starts}{reason}")
    return given, next(step for step in kept if step > given)


def _origin(cfg: DictConfig, start: StartRecord, first: int) -> str:
    """What ``resume_from`` is to say: nothing, where a checkpoint of the run's own is begun from."""
    from gptx.runs.resume_source import checkpoint_of

    origin = start.resume_source
    if first or not origin:
        return ""
    path = checkpoint_of(cfg.resume_from, origin.step)
    if not path.is_dir():
        raise ConfigError(
            f"this run began from step {origin.step} of another (resume_from={cfg.resume_from}), which is not there "
            "any more: only a stretch between two checkpoints of its own can be certified (runtime.keep=2 or more)"
        )
    return str(path)


@contextlib.contextmanager
def _where_it_was_started(cfg: DictConfig, folder: RunFolder) -> Any:
    """Relative paths of its config are meant from where the run was started: above its paths.outputs."""
    outputs, here = Path(cfg.paths.outputs), folder.path.parents[1]
    above = here.parents[len(outputs.parts) - 1] if outputs.parts and not outputs.is_absolute() else here
    meant = above / outputs == here
    with contextlib.chdir(above) if meant and not outputs.is_absolute() else contextlib.nullcontext():
        yield


def _begin(folder: RunFolder, start: StartRecord, again: RunFolder, first: int) -> None:
    """A run folder that stands where the run stood: its checkpoint is linked to, and cannot be changed by that."""
    again.checkpoints.mkdir(parents=True)
    with Journal(again.path) as book:
        book.write(start)
    if first:
        name = step_name(first)
        shutil.copytree(folder.checkpoints / name, again.checkpoints / name, copy_function=os.symlink)


def _train(cfg: DictConfig, path: Path, last: int, in_process: bool, processes: int) -> bool:
    """As the command does; False: interrupted."""
    from gptx.hardware.cpu import threads
    from gptx.processes import workers
    from gptx.training.session import fit, worker

    try:
        if in_process:
            fit(cfg, str(path), last)
            return True
        args = (plain_dict(cfg), str(path), last)
        return not workers.start(worker, args, processes, threads(cfg.runtime.threads, processes), path / "logs")
    except Interrupted:
        return False


def _show(verdict: dict[str, Any], path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("", "the run", "trained again")
    sides = [", ".join(dict.fromkeys(str(side[key]) for side in verdict["run"])) for key in verdict["again"]]
    for key, before in zip(verdict["again"], sides, strict=True):
        table.add_row(key, before, str(verdict["again"][key]))
    for key in ("batches", "losses", "gradient norms", "weights", "moments"):
        table.add_row(key, "", verdict["compared"][key]["text"])
    console.print(table)
    console.print(f"steps {verdict['from']} to {verdict['to']}: {verdict['verdict']}", soft_wrap=True, markup=False)
    console.print(f"{verdict['seconds']:.1f} s   {path / 'certificate.json'}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    sys.exit(main())
