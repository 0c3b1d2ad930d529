"""Continue a text with a trained model: ``python -m gptx.generate RUN_DIR --prompt "The state of the union"``."""

import argparse
import sys
from pathlib import Path

from gptx.cli import Parser
from gptx.errors import ConfigError, GptxError


def main(argv: list[str] | None = None) -> int:
    try:
        args = _parser().parse_args(argv)
        _check(args)
        from gptx import load
        from gptx.hardware.device import autocast, compute_dtype
        from gptx.model.sampling import text

        model, tokenizer = load(args.run_dir, device=args.device)
        stop: list[int] = []
        if args.stop:
            ids = [int(i) for i in tokenizer.encode(args.stop)]
            if len(ids) != 1:
                raise ConfigError(f"--stop {args.stop!r} is {len(ids)} tokens of this run's tokenizer, expected one")
            stop = ids
        device = model.embed.weight.device
        dtype = compute_dtype(args.precision, device)
        pieces = text(
            model,
            tokenizer,
            args.prompt,
            args.tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
            stop=stop,
            cached=not args.no_cache,
            autocast=lambda: autocast(device, dtype),
        )
        sys.stdout.write(args.prompt)
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    except GptxError as error:
        print(f"gptx: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        return 130
    except BrokenPipeError:  # `| head`: nobody reads on
        sys.stderr.close()
        return 0
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m gptx.generate", description=__doc__)
    parser.add_argument(
        "run_dir", type=Path, help="the folder of a run, e.g. outputs/default/mha·rope·full·single·s0-…"
    )
    parser.add_argument("--prompt", default="", help="the text to go on from (default: the start of a document)")
    parser.add_argument("--tokens", type=int, default=500, help="how many tokens at most (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest (default %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k likeliest tokens (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the likeliest that sum to p (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument("--stop", default="", help="a token to stop at, besides the end of a document")
    parser.add_argument("--no-cache", action="store_true", help="compute every token from scratch (slow; same text)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--precision", default="fp32", choices=["auto", "bf16", "fp32"])
    return parser


def _check(args: argparse.Namespace) -> None:
    if args.tokens < 1 or args.top_k < 0 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise ConfigError("expected --tokens >= 1, --top-k >= 0, --temperature >= 0 and 0 < --top-p <= 1")
    if not (args.run_dir / "config.yaml").exists():
        raise ConfigError(f"{args.run_dir} is not a run folder: it has no config.yaml (python -m gptx.run makes one)")


if __name__ == "__main__":
    sys.exit(main())
