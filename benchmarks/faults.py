"""What is lost when machines die: real runs are killed (SIGKILL) at random moments, the same command goes on, and in
the end all has to be as if nothing had happened: every loss in the journal, the best model, weights and moments, bit
for bit.

A victim is the command or one of its workers; a moment is while the workers start, while they train, while a checkpoint
is being written, or while the end is. After some kills the newest checkpoint is damaged, too: a file is cut short, or a
bit of it is turned round; the run has to see it and to go on from the one before.
"""

import argparse
import json
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
from rich.table import Table

from gptx.cli import Parser, check_json, exit_code
from gptx.config.overrides import options
from gptx.errors import GptxError, RunFailed
from gptx.runs import journal
from gptx.runs.records import EventRecord

EXAMPLES = """examples:
  python -m benchmarks.faults                            50 kills of ddp and of fsdp runs, in turn
  python -m benchmarks.faults --strategy pp --kills 20
"""
SMALL = [
    *("device=cpu", "precision=fp32", "model.n_layer=2", "model.d_model=64", "model.context=32", "tracking=off"),
    *("trainer.max_steps=400", "trainer.batch_size=8", "trainer.eval_every=10", "trainer.val_tokens=512"),
    *("runtime.val_batch=8", "runtime.log_every=1", "runtime.threads=1", "runtime.sample_tokens=64"),
]
MOMENTS = ("starting", "training", "training", "saving", "saving", "ending")
LIMIT = 300.0  # seconds to wait for anything
EXPECTED = (1, -9)  # exit codes of a command whose worker, or that itself, was killed


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.faults", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--kills", type=int, default=50, help="of all strategies together (default %(default)s)")
    parser.add_argument(
        "--strategy", nargs="+", choices=options("strategy"), default=["ddp", "fsdp"], help="(default: ddp fsdp)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every kill")
    return parser


@dataclass
class Life:
    """A run that is killed again and again; the study names it, which is no part of what it computes."""

    place: Path
    strategy: str
    study: str
    kills: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        [folder] = journal.runs(self.place / "outputs" / self.study)
        return folder

    def start(self) -> "subprocess.Popen[str]":
        words = [*SMALL, f"strategy={self.strategy}", f"study={self.study}"]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-m", "gptx.run", *words], cwd=self.place, **pipes)

    def finish(self) -> None:
        """Undisturbed, to its end."""
        run = self.start()
        _, err = run.communicate(timeout=LIMIT)
        if run.returncode != 0:
            raise RunFailed(f"a run that was left alone failed: {err}")

    def strike(self, rng: random.Random) -> bool:
        """One attempt and a kill; False: the run was finished before that."""
        moment = rng.choice(MOMENTS)
        begun, on = self.lines(), rng.randint(2, 200)
        reached: dict[str, Callable[[], bool]] = {
            "starting": lambda: len(workers(run)) > 0,
            "training": lambda: self.lines() >= begun + on,
            "saving": lambda: self.lines() >= begun + on and self.there("checkpoints/.step-*.part"),
            "ending": lambda: self.there("samples"),
        }
        run = self.start()
        crew: list[psutil.Process] = []
        if until(reached[moment], run):
            crew = [psutil.Process(run.pid), *workers(run)]
            victim = rng.choice(crew)
            victim.kill()
            then = time.monotonic()
        _, err = run.communicate(timeout=LIMIT)
        if run.returncode == 0:
            return False
        if not crew:
            raise RunFailed(f"before it could be killed, a run failed: {err}")
        _, alive = psutil.wait_procs(crew, LIMIT)
        if run.returncode not in EXPECTED or alive:
            raise RunFailed(f"killed while {moment}, the command ended with {run.returncode}, {alive} live on: {err}")
        who = "command" if victim.pid == run.pid else "worker"
        kill = {"strategy": self.strategy, "moment": moment, "victim": who, "line": self.lines()}
        self.kills.append({**kill, "seconds": time.monotonic() - then, "said": err.strip().splitlines()[-1:]})
        return True

    def damage(self, rng: random.Random) -> str | None:
        """Spoil a file of the newest checkpoint, if there is one before it; returns how. What a finished run keeps is
        left alone: nobody goes on from that."""
        whole = sorted((self.folder / "checkpoints").glob("step-*"))
        if len(whole) < 2 or journal.status(self.folder) == "finished":
            return None
        path = rng.choice(sorted(whole[-1].iterdir()))
        data = bytearray(path.read_bytes())
        how = rng.choice(["truncated", "bit-flipped"])
        if how == "truncated":
            data = data[: rng.randrange(len(data))]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        self.kills[-1]["damage"] = {"file": path.name, "how": how, "checkpoint": whole[-1].name}
        return how

    def there(self, pattern: str) -> bool:
        return any((self.place / "outputs" / self.study).glob(f"*/{pattern}"))

    def lines(self) -> int:
        """Of the journal."""
        books = (self.place / "outputs" / self.study).glob("*/journal.jsonl")
        return sum(book.read_bytes().count(b"\n") for book in books)


def workers(run: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that train."""
    try:
        children = psutil.Process(run.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def until(true: Callable[[], bool], run: "subprocess.Popen[str]") -> bool:
    """Wait for a condition; False: the process ended before."""
    deadline = time.monotonic() + LIMIT
    while run.poll() is None:
        if true():
            return True
        if time.monotonic() > deadline:
            raise RunFailed("waited in vain")
        time.sleep(0.002)
    return False


def differences(folder: Path, reference: Path) -> list[str]:
    """What two runs did not compute alike."""
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
    check_json(args.json)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    rng, console = random.Random(args.seed), Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="gptx-faults-") as place:
        lives = [life for life in _lives(args, rng, Path(place), console)]
        wrong = []
        for strategy in args.strategy:
            reference = Life(Path(place), strategy, f"reference-{strategy}")
            reference.finish()
            for life in (life for life in lives if life.strategy == strategy):
                life.finish()
                wrong += [f"{life.study}: {what}" for what in differences(life.folder, reference.folder)]
                _check_told(life)
    console.print(_table(args.strategy, lives))
    if args.json:
        args.json.write_text(json.dumps([kill for life in lives for kill in life.kills], indent=1))
    if wrong:
        raise RunFailed(f"not as an undisturbed run has it: {'; '.join(wrong)}")
    slowest = max(kill["seconds"] for life in lives for kill in life.kills)
    console.print(f"nothing was lost; after a kill all had ended within {slowest:.1f} s")


def _lives(args: argparse.Namespace, rng: random.Random, place: Path, console: Console) -> list[Life]:
    lives: list[Life] = []
    for number in range(args.kills):
        strategy = args.strategy[number % len(args.strategy)]
        life = next((life for life in reversed(lives) if life.strategy == strategy), None)
        while life is None or not life.strike(rng):  # one that was finished has to be right; another one begins
            life = Life(place, strategy, f"{strategy}-{len(lives)}")
            lives.append(life)
        how = life.damage(rng) if rng.random() < 0.2 else None
        kill = life.kills[-1]
        spoilt = f", then its newest checkpoint {how}" if how else ""
        console.print(f"{number + 1:3} {life.study}: {kill['victim']} killed while {kill['moment']}{spoilt}")
    return lives


def _check_told(life: Life) -> None:
    """Each damage was seen."""
    spoilt = sum("damage" in kill for kill in life.kills)
    told = [r for r in journal.read(life.folder) if isinstance(r, EventRecord) and "is damaged" in r.text]
    if len(told) != spoilt:
        raise RunFailed(f"{life.study}: {spoilt} checkpoints were damaged, {len(told)} were seen to be")


def _table(strategies: list[str], lives: list[Life]) -> Table:
    columns = [_counts([life for life in lives if life.strategy == strategy]) for strategy in strategies]
    table = Table("", *strategies)
    for what in columns[0]:
        table.add_row(what, *(str(column[what]) for column in columns))
    return table


def _counts(lives: list[Life]) -> dict[str, int]:
    kills = [kill for life in lives for kill in life.kills]
    moments, victims = (Counter(kill[key] for kill in kills) for key in ("moment", "victim"))
    damage = Counter(kill["damage"]["how"] for kill in kills if "damage" in kill)
    return {
        "runs": len(lives),
        "kills": len(kills),
        **{f"while {moment}": moments[moment] for moment in dict.fromkeys(MOMENTS)},
        **{f"of {victim}": victims[victim] for victim in ("command", "worker")},
        **{f"checkpoints {how}": damage[how] for how in ("truncated", "bit-flipped")},
    }


if __name__ == "__main__":
    sys.exit(main())
