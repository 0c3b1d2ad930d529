"""Test that runs survive kills: they are killed (SIGKILL) at random times, and the same command resumes them. At the
end all losses in the journal, the best model, weights and moments must be bitwise equal to those of an undisturbed run.

The killed process is the command or one of its workers, while the workers start, during training, while a checkpoint is
written, or while the result is written. After some kills a file of the newest checkpoint is damaged as well (truncated,
or one bit is flipped): the run must detect that and resume from the previous checkpoint.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import psutil
except ImportError:
    raise SystemExit("gptx: benchmarks.faults needs psutil: pip install -e '.[test]' -c constraints.txt") from None
from rich.console import Console

from benchmarks.report import Row, terminal_table, write_json
from gptx.cli import Parser, exit_code
from gptx.config.overrides import options
from gptx.errors import GptxError, RunFailed
from gptx.output_files import check_output
from gptx.runs import journal
from gptx.runs.records import EventRecord

EXAMPLES = """examples:
  python -m benchmarks.faults                            50 kills of ddp and fsdp runs, in turn
  python -m benchmarks.faults --strategy pp --kills 20
"""
SMALL = [
    *("device=cpu", "precision=fp32", "model.n_layer=2", "model.d_model=64", "model.context=32", "tracking=off"),
    *("trainer.max_steps=400", "trainer.batch_size=8", "trainer.eval_every=10", "trainer.val_tokens=512"),
    *("runtime.val_batch=8", "runtime.log_every=1", "runtime.threads=1", "runtime.sample_tokens=64"),
]
PHASES = ("starting", "training", "training", "saving", "saving", "ending")
TIMEOUT = 300.0  # seconds
EXPECTED = (1, -9)  # exit code of a command if a worker, or the command itself, was killed


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.faults", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--kills", type=int, default=50, help="of all strategies together (default %(default)s)")
    parser.add_argument("--strategy", nargs="+", choices=options("strategy"), default=["ddp", "fsdp"], help="in turn")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kills (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a record of every kill to this file")
    return parser


@dataclass
class KilledRun:
    """A run that is killed several times. Its study is named like the run: a study does not change the result."""

    place: Path
    strategy: str
    study: str
    kills: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        [folder] = journal.runs(self.place / "outputs" / self.study)
        return folder

    def start(self) -> "subprocess.Popen[str]":
        overrides = [*SMALL, f"strategy={self.strategy}", f"study={self.study}"]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-m", "gptx.run", *overrides], cwd=self.place, **pipes)

    def finish(self) -> None:
        """Train to the end without a kill."""
        run = self.start()
        _, err = run.communicate(timeout=TIMEOUT)
        if run.returncode != 0:
            raise RunFailed(f"a run that was not killed failed: {err}")

    def kill_once(self, rng: random.Random) -> bool:
        """Start the run and kill it; returns False if it finished before the kill."""
        phase = rng.choice(PHASES)
        enough = self.journal_lines() + rng.randint(2, 200)
        reached: dict[str, Callable[[], bool]] = {
            "starting": lambda: len(workers(run)) > 0,
            "training": lambda: self.journal_lines() >= enough,
            "saving": lambda: self.journal_lines() >= enough and self.exists("checkpoints/.step-*.part"),
            "ending": lambda: self.exists("samples"),
        }
        run = self.start()
        processes: list[psutil.Process] = []
        if until(reached[phase], run):
            processes = [psutil.Process(run.pid), *workers(run)]
            victim = rng.choice(processes)
            victim.kill()
            then = time.monotonic()
        _, err = run.communicate(timeout=TIMEOUT)
        if run.returncode == 0:
            return False
        if not processes:
            raise RunFailed(f"a run failed before it was killed: {err}")
        _, alive = psutil.wait_procs(processes, TIMEOUT)
        if run.returncode not in EXPECTED or alive:
            raise RunFailed(f"after a kill while {phase}: exit code {run.returncode}, still running: {alive}: {err}")
        victim_kind = "command" if victim.pid == run.pid else "worker"
        kill = {"strategy": self.strategy, "phase": phase, "victim": victim_kind, "line": self.journal_lines()}
        self.kills.append({**kill, "seconds": time.monotonic() - then, "stderr": err.strip().splitlines()[-1:]})
        return True

    def damage(self, rng: random.Random) -> str | None:
        """Damage a file of the newest checkpoint and return a description. Return None, and damage nothing, if the run
        is finished or has only one checkpoint."""
        saved = sorted((self.folder / "checkpoints").glob("step-*"))
        if len(saved) < 2 or journal.status(self.folder) == "finished":
            return None
        path = rng.choice(sorted(saved[-1].iterdir()))
        data = bytearray(path.read_bytes())
        how = rng.choice(["truncated", "bit-flipped"])
        if how == "truncated":
            data = data[: rng.randrange(len(data))]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        self.kills[-1]["damage"] = {"file": path.name, "how": how, "checkpoint": saved[-1].name}
        return how

    def exists(self, pattern: str) -> bool:
        return any((self.place / "outputs" / self.study).glob(f"*/{pattern}"))

    def journal_lines(self) -> int:
        journals = (self.place / "outputs" / self.study).glob("*/journal.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in journals)


def workers(run: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The worker processes of a run."""
    try:
        children = psutil.Process(run.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def until(condition: Callable[[], bool], run: "subprocess.Popen[str]") -> bool:
    """Wait for a condition; returns False if the process ended first."""
    deadline = time.monotonic() + TIMEOUT
    while run.poll() is None:
        if condition():
            return True
        if time.monotonic() > deadline:
            raise RunFailed(f"nothing happened for {TIMEOUT:g} s")
        time.sleep(0.002)
    return False


def differences(folder: Path, reference: Path) -> list[str]:
    """List what differs between two runs: losses, last or best weights; empty if all are bitwise equal."""
    import torch
    from safetensors.torch import load_file

    from gptx.runs.checkpoint_files import steps
    from gptx.training.checkpoint import load_tensors

    found = [] if journal.computed(folder) == journal.computed(reference) else ["the journals' losses"]
    for side in ("last", "best"):
        if side == "last":
            ours, theirs = (load_tensors(steps(place / "checkpoints")[-1]) for place in (folder, reference))
        else:
            ours, theirs = (load_file(place / "checkpoints/best/model.safetensors") for place in (folder, reference))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            found.append(f"the {side} weights")
    return found


def _bench(args: argparse.Namespace) -> None:
    if args.kills < 1:
        raise GptxError(f"--kills {args.kills}: expected at least 1")
    check_output("--json", args.json)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    rng, console = random.Random(args.seed), Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="gptx-faults-") as place:
        runs = _kill_runs(args, rng, Path(place), console)
        wrong = []
        for strategy in args.strategy:
            reference = KilledRun(Path(place), strategy, f"reference-{strategy}")
            reference.finish()
            for run in (run for run in runs if run.strategy == strategy):
                run.finish()
                wrong += [f"{run.study}: {what}" for what in differences(run.folder, reference.folder)]
                _check_reported(run)
    terminal_table(("", *args.strategy), _rows(args.strategy, runs), left=1)
    write_json(args.json, [kill for run in runs for kill in run.kills])
    if wrong:
        raise RunFailed(f"differs from an undisturbed run: {'; '.join(wrong)}")
    slowest = max(kill["seconds"] for run in runs for kill in run.kills)
    console.print(f"nothing was lost; after a kill all processes ended within {slowest:.1f} s")


def _kill_runs(args: argparse.Namespace, rng: random.Random, place: Path, console: Console) -> list[KilledRun]:
    runs: list[KilledRun] = []
    for number in range(args.kills):
        strategy = args.strategy[number % len(args.strategy)]
        run = next((run for run in reversed(runs) if run.strategy == strategy), None)
        while run is None or not run.kill_once(rng):  # a finished run is compared later; start another one
            run = KilledRun(place, strategy, f"{strategy}-{len(runs)}")
            runs.append(run)
        how = run.damage(rng) if rng.random() < 0.2 else None
        kill = run.kills[-1]
        damaged = f", then its newest checkpoint {how}" if how else ""
        console.print(f"{number + 1:3} {run.study}: {kill['victim']} killed while {kill['phase']}{damaged}")
    return runs


def _check_reported(run: KilledRun) -> None:
    """Check that the run has reported every damaged checkpoint."""
    damaged = sum("damage" in kill for kill in run.kills)
    reported = [r for r in journal.read(run.folder) if isinstance(r, EventRecord) and "is damaged" in r.text]
    if len(reported) != damaged:
        raise RunFailed(f"{run.study}: {damaged} checkpoints were damaged, {len(reported)} were reported")


def _rows(strategies: list[str], runs: list[KilledRun]) -> list[Row]:
    columns = [_counts([run for run in runs if run.strategy == strategy]) for strategy in strategies]
    return [(name, *(str(column[name]) for column in columns)) for name in columns[0]]


def _counts(runs: list[KilledRun]) -> dict[str, int]:
    kills = [kill for run in runs for kill in run.kills]
    phases, victims = (Counter(kill[key] for kill in kills) for key in ("phase", "victim"))
    damage = Counter(kill["damage"]["how"] for kill in kills if "damage" in kill)
    return {
        "runs": len(runs),
        "kills": len(kills),
        **{f"while {phase}": phases[phase] for phase in dict.fromkeys(PHASES)},
        **{f"of {victim}": victims[victim] for victim in ("command", "worker")},
        **{f"checkpoints {how}": damage[how] for how in ("truncated", "bit-flipped")},
    }


if __name__ == "__main__":
    sys.exit(main())
