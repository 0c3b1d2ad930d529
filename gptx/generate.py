"""Continue a text with a trained model: ``gptx generate RUN_DIR --prompt "The state of the union"``."""

import argparse
import sys
from functools import partial
from pathlib import Path

from gptx.cli import Parser, exit_code
from gptx.config.trust import trusted_modules, with_trust_options
from gptx.errors import ConfigError


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
    parser.add_argument("--stop", default="", help="token to stop at, besides the end of a document")
    parser.add_argument("--no-cache", action="store_true", help="compute every token from scratch (slow; same text)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--precision", default="fp32", choices=["auto", "bf16", "fp32"])
    return with_trust_options(parser)


def _generate(args: argparse.Namespace) -> None:
    _check(args)
    from gptx import load
    from gptx.hardware.device import autocast, compute_dtype
    from gptx.model.sampling import stop_token, text

    model, tokenizer = load(args.run_dir, device=args.device, trust=trusted_modules(args))
    precision = partial(autocast, device := model.embed.weight.device, compute_dtype(args.precision, device))
    sampling = {key: getattr(args, key) for key in ("temperature", "top_k", "top_p", "seed")}
    sampling |= {"stop": stop_token(tokenizer, args.stop), "cached": not args.no_cache}
    sys.stdout.write(args.prompt)
    try:
        for chunk in text(model, tokenizer, args.prompt, args.tokens, autocast=precision, **sampling):
            print(chunk, end="", flush=True)
    finally:
        sys.stdout.write("\n")


def _check(args: argparse.Namespace) -> None:
    if args.tokens < 1 or args.top_k < 0 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise ConfigError("expected --tokens >= 1, --top-k >= 0, --temperature >= 0 and 0 < --top-p <= 1")
    if not (args.run_dir / "config.yaml").exists():
        raise ConfigError(f"{args.run_dir} is not a run folder: it has no config.yaml; gptx run makes one")


if __name__ == "__main__":
    sys.exit(main())
