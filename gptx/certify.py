"""``gptx certify RUN_DIR``: repeat some steps of a run and compare the results: the run's resume certificate."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gptx.cli import Parser, exit_code
from gptx.config.trust import trusted_modules, with_trust_options
from gptx.runs.atomic_files import write_json
from gptx.runs.folder import RunFolder
from gptx.runs.json_codec import to_json
from gptx.terminal import write_data
from gptx.training.repeat_training import certify

_HELP = """\
Train from one checkpoint of a run to a later one again, in a temporary folder, and compare the outcome with the run:
losses, gradient norms and a checksum of the batches step by step, all weights and moments at the end, and the best
validation with its weights. The checksum covers where each row of a batch starts in the text and the hash of the data.
The token files are compared with the hash of their content; damaged ones are created again first, in a temporary folder
if paths.data is not in the outputs of the run.
Config, strategy and processes are those of the run. The result is written to RUN_DIR/certificate.json. Exit code 0:
equal, or within 1e-5 on other hardware, torch or processes. 1: different or not finished. 2: cannot be repeated.
"""
_FROM = """\
train from the checkpoint of this step (0: from the start) to the next one; default: from the oldest checkpoint to the
newest; if there is only one, from the start to it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return exit_code(lambda: _certify(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("gptx certify", description=_HELP)
    parser.add_argument("run_dir", type=Path, help="a run folder, e.g. outputs/default/mha·rope·full·ddp·s0-…")
    parser.add_argument("--from", dest="start", type=int, metavar="STEP", help=_FROM)
    parser.add_argument("--json", action="store_true", help="print certificate.json")
    return with_trust_options(parser)


def _certify(args: argparse.Namespace) -> int:
    folder = RunFolder(args.run_dir.resolve())
    with folder.lock():
        certificate = certify(folder, args.start, trusted_modules(args), args.trust_code)
        write_json(folder.path / "certificate.json", to_json(certificate))
    if args.json:
        write_data(json.dumps(to_json(certificate), indent=1, ensure_ascii=False) + "\n")
    else:
        from gptx.training.certificate_table import show

        show(certificate, args.run_dir)
    return 0 if certificate.passed else 1


if __name__ == "__main__":
    sys.exit(main())
