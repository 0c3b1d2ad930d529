"""The arguments of ``gptx generate``. Does not import torch."""

import argparse
import math
from pathlib import Path

from gptx.cli import Parser
from gptx.config.saved_config import check_run_dir
from gptx.errors import ConfigError


def with_sampling_options(parser: Parser) -> Parser:
    """A parser with the arguments of ``gptx generate`` besides those about trust."""
    parser.add_argument("run_dir", type=Path, help="folder of a run, e.g. outputs/default/mha·rope·full·single·s0-…")
    parser.add_argument("--prompt", default="", help="text to continue (default: the start of a document)")
    parser.add_argument("--tokens", type=int, default=500, help="number of tokens, at most (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the most likely token (default %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k most likely tokens (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the most likely tokens of total probability p")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="text to stop at, besides the end of a document, e.g. --stop $'\\n\\n'; may be given several times",
    )
    parser.add_argument("--no-cache", action="store_true", help="compute every token from scratch (slow; same text)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--precision", default="fp32", choices=["auto", "bf16", "fp32"])
    return parser


def check(args: argparse.Namespace) -> None:
    """Check the arguments.

    Raises:
        ConfigError: one is out of range, or there is no run.
    """
    if args.tokens < 1 or args.top_k < 0 or not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1:
        raise ConfigError("expected --tokens >= 1, --top-k >= 0, a finite --temperature >= 0 and 0 < --top-p <= 1")
    if not -(2**63) <= args.seed < 2**64:
        raise ConfigError(f"--seed {args.seed}: expected a number of at most 64 bits")
    if not _is_text(args.prompt) or not all(map(_is_text, args.stop)):
        raise ConfigError("--prompt and --stop: expected text that is encoded as UTF-8")
    if "" in args.stop:
        raise ConfigError("--stop '': expected a text of one character or more")
    check_run_dir(args.run_dir)


def _is_text(argument: str) -> bool:
    """Whether an argument of the command line could be decoded."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)
