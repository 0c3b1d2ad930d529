"""Continue a text with a trained model: ``gptx generate RUN_DIR --prompt "The state of the union"``.

A file or a pipe gets exactly the text, encoded as UTF-8. A terminal shows control characters in the form \\x1b instead
of executing them.
"""

import argparse
import sys
from functools import partial

from gptx.cli import Parser, exit_code, log
from gptx.config.trust import trusted_modules, with_trust_options
from gptx.model.sampling_options import check, with_sampling_options
from gptx.terminal import write_data


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return exit_code(lambda: _generate(_parser().parse_args(argv)))


def _parser() -> Parser:
    return with_trust_options(with_sampling_options(Parser("gptx generate", description=__doc__)))


def _generate(args: argparse.Namespace) -> None:
    check(args)
    from gptx import load
    from gptx.hardware.device import autocast, compute_dtype
    from gptx.model.sampling import text, up_to

    model, tokenizer = load(args.run_dir, args.device, trusted_modules(args), args.trust_code)
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


if __name__ == "__main__":
    sys.exit(main())
