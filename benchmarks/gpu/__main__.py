"""Everything that a GPU is needed for, within a few minutes: rates of the device, kernels, training, strategies,
resume, decoding, and the CUDA tests.

The parts run one after the other, most valuable first, each in its own process and within its share of --minutes. A
part that is cut off or crashes keeps what it has measured. DIR gets gpu.json and gpu.md, which are written again after
every case, and the output of the parts in logs/. Exit code 1: something is missing or wrong; gpu.md says what.
"""

import argparse
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.train import peer_checkout
from gptx.cli import Parser, default_sigint, exit_code
from gptx.errors import ConfigError, RunFailed

if TYPE_CHECKING:
    from benchmarks.gpu.document import Document
    from benchmarks.gpu.part import Part, Row, Settings

NAMES = ("device", "training", "kernels", "times", "strategies", "resume", "several", "decoding", "tests")
EXAMPLES = """examples:
  python -m benchmarks.gpu --out results
  python -m benchmarks.gpu --out results --peer nanogpt=../nanoGPT
  python -m benchmarks.gpu --out again --only kernels times --minutes 3
  python -m benchmarks.gpu --out rehearsal --device cpu        every part at toy size
"""
RESERVE = 3.0  # seconds before the end of --minutes in which no part runs: to end processes and to write
USEFUL = 20.0  # seconds that a part gets even if its share is smaller, so that the first ones are not starved
LEAST = 2.0  # seconds: with less, a part is not started


class Stopped(KeyboardInterrupt):
    """A signal asks this command to stop; the argument is its number."""


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _bench(_parser().parse_args(argv), sys.argv[1:] if argv is None else argv))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m benchmarks.gpu", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything (default %(default)g)")
    parser.add_argument("--peer", type=peer_checkout, metavar="nanogpt=PATH", help="also time a checkout of nanoGPT")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="PART", help=" ".join(NAMES))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a rehearsal (default cuda)")
    return parser


def _bench(args: argparse.Namespace, argv: Sequence[str]) -> int:
    began = time.monotonic()
    _check(args)
    default_sigint()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="gptx-gpu-", ignore_cleanup_errors=True) as scratch:
        settings = _settings(args, scratch)
        document = _document(args, argv, began)
        try:
            _run(document, settings, began + args.minutes * 60)
        except KeyboardInterrupt as stop:
            document.close("it was interrupted")
            print(f"interrupted: what was measured is in {document.markdown}", flush=True)
            return 128 + next(iter(stop.args), signal.SIGINT)
    document.close("it is complete" if not document.faults() else "not everything was measured, or is right")
    print(f"{document.seconds:.0f} s in all: {document.markdown} and {document.json.name}", flush=True)
    if faults := document.faults():
        raise RunFailed(f"not everything was measured, or is right: {'; '.join(faults)}; see {document.markdown}")
    return 0


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


def _check(args: argparse.Namespace) -> None:
    """Raises ConfigError: the command cannot start."""
    if args.minutes <= 0:
        raise ConfigError(f"--minutes {args.minutes:g}: expected more than 0")
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out} is a file: expected a folder")
    if (args.out / "gpu.json").exists():
        raise ConfigError(f"--out {args.out} holds the results of an earlier benchmark: use another folder")
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        build = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        raise ConfigError(f"this machine has no GPU that torch can use{build}; --device cpu rehearses every part")


def _settings(args: argparse.Namespace, scratch: str) -> "Settings":
    import torch

    from benchmarks.gpu.part import Settings

    peer = str(args.peer[1].resolve()) if args.peer else ""
    return Settings(args.device, torch.cuda.device_count() if args.device == "cuda" else 0, scratch, peer)


def _document(args: argparse.Namespace, argv: Sequence[str], began: float) -> "Document":
    from benchmarks.gpu.document import Document
    from benchmarks.gpu.part import PartResult
    from benchmarks.gpu.parts import PARTS

    assert tuple(part.name for part in PARTS) == NAMES
    (args.out / "logs").mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if part.name in args.only]
    results = {part.name: PartResult(part.name) for part in parts}
    command = shlex.join(["python", "-m", "benchmarks.gpu", *argv])
    document = Document(args.out, parts, results, command, args.minutes, args.device, began)
    document.write()
    return document


def _run(document: "Document", settings: "Settings", end: float) -> None:
    """Run the parts. What one leaves of its time is divided among those after it."""
    from benchmarks.gpu.part import Progress

    end -= min(RESERVE, 0.05 * document.minutes * 60)
    waiting = [part for part in document.parts if not part.skip(settings)]
    for part in document.parts:
        result = document.results[part.name]
        if part not in waiting:
            result.progress, result.note = Progress.SKIPPED, part.skip(settings)
            _say(document, f"{part.name}: skipped, {result.note}")
            continue
        left = end - time.monotonic()
        limit = min(left, max(USEFUL, left * part.share / sum(one.share for one in waiting)))
        waiting.remove(part)
        if limit < LEAST:
            result.note = "no time was left"
            _say(document, f"{part.name}: not run, no time was left")
        else:
            _run_part(document, settings, part, limit)
        document.write()


def _run_part(document: "Document", settings: "Settings", part: "Part", limit: float) -> None:
    from benchmarks.gpu.supervise import Supervisor

    def changed(row: "Row") -> None:
        document.write()
        _say(document, f"{part.name}: {row.case}: {row.state}{', ' * bool(row.text)}{row.text}")

    result = document.results[part.name]
    _say(document, f"{part.name}: {part.title}, at most {limit:.0f} s")
    Supervisor(part, settings, result, document.folder / "logs", changed).run(limit)
    _say(document, f"{part.name}: {result.progress} after {result.seconds:.0f} s")


def _say(document: "Document", text: str) -> None:
    """Print a line of progress."""
    print(f"{document.seconds:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
