"""Continue a text with a trained model: ``gptx generate RUN_DIR --prompt "The state of the union"``.

A file or a pipe gets exactly the text, encoded as UTF-8. A terminal shows control characters in the form \\x1b instead
of executing them.
"""

import argparse
import math
import sys
from functools import partial
from pathlib import Path

from gptx.cli import Parser, exit_code, log
from gptx.config.trust import trusted_modules, with_trust_options
from gptx.errors import ConfigError
from gptx.terminal import write_data


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return exit_code(lambda: _generate(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("gptx generate", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder of a run, e.g. outputs/default/mha·rope·full·single·s0-…")
    parser.add_argument("--prompt", default="", help="text to continue (default: the start of a document)")
    parser.add_argument("--tokens", type=int, default=500, help="number of tokens, at most (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the most likely token (default %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k most likely tokens (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the most likely tokens of total probability p")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument("--stop", default="", help="text to stop at, besides the end of a document")
    parser.add_argument("--no-cache", action="store_true", help="compute every token from scratch (slow; same text)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--precision", default="fp32", choices=["auto", "bf16", "fp32"])
    return with_trust_options(parser)


def _generate(args: argparse.Namespace) -> None:
    _check(args)
    from gptx import load
    from gptx.hardware.device import autocast, compute_dtype
    from gptx.model.sampling import text, up_to

    model, tokenizer = load(args.run_dir, device=args.device, trust=trusted_modules(args))
    precision = partial(autocast, device := model.embed.weight.device, compute_dtype(args.precision, device))
    sampling = {key: getattr(args, key) for key in ("temperature", "top_k", "top_p", "seed")}
    length, context = len(tokenizer.encode(args.prompt)), model.shape.context
    if length > context:
        log.warning("the prompt has %d tokens, and the model sees only the last %d: its context", length, context)
    chunks = text(model, tokenizer, args.prompt, args.tokens, autocast=precision, cached=not args.no_cache, **sampling)
    write_data(args.prompt)
    try:
        for chunk in up_to(args.stop, chunks):
            write_data(chunk)
    finally:
        write_data("\n")


def _check(args: argparse.Namespace) -> None:
    if args.tokens < 1 or args.top_k < 0 or not 0 <= args.temperature < math.inf or not 0 < args.top_p <= 1:
        raise ConfigError("expected --tokens >= 1, --top-k >= 0, a finite --temperature >= 0 and 0 < --top-p <= 1")
    if not -(2**63) <= args.seed < 2**64:
        raise ConfigError(f"--seed {args.seed}: expected a number of at most 64 bits")
    for option in ("prompt", "stop"):
        if not _is_text(getattr(args, option)):
            raise ConfigError(f"--{option}: expected text that is encoded as UTF-8")
    if not (args.run_dir / "config.yaml").exists():
        raise ConfigError(f"{args.run_dir} is not a run folder: it has no config.yaml; gptx run makes one")


def _is_text(argument: str) -> bool:
    """Whether an argument of the command line could be decoded."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


if __name__ == "__main__":
    sys.exit(main())
