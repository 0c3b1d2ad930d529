"""Continue a text with a trained model: ``python -m gptx.generate RUN_DIR --prompt "The state of the union"``."""

import argparse
import codecs
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptx.cache import Cache
from gptx.errors import ConfigError, GptxError
from gptx.model import GPT
from gptx.tokenizer.base import Tokenizer


def pick(logits: Tensor, temperature: float, top_k: int, top_p: float, stream: torch.Generator) -> Tensor:
    """(B, V) logits -> (B, 1) tokens. Temperature 0 is greedy; top_k 0 and top_p 1 are off."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits / temperature
    if top_k:
        weakest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, float("-inf"))
    probs = logits.softmax(-1)
    if top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True)
        ranked[ranked.cumsum(-1) - ranked >= top_p] = 0  # the first token that passes top_p is still in
        probs = torch.zeros_like(probs).scatter(-1, order, ranked)
    return torch.multinomial(probs, 1, generator=stream)


@torch.no_grad()
def tokens(
    model: GPT,
    prompt: list[int],
    count: int,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: int | None = None,
    cached: bool = True,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[int]:
    """Yield up to ``count`` tokens that follow ``prompt``, until ``stop``.

    The model sees at most its trained context: when that is full, it goes on from the newest half of it.
    """
    model.eval()
    device, context = model.embed.weight.device, model.shape.context
    stream = torch.Generator(device).manual_seed(seed)
    seen = list(prompt)[-context:]
    cache, fresh = Cache(context), seen
    for _ in range(count):
        if len(seen) > context:
            seen = seen[-max(1, context // 2) :]
            cache, fresh = Cache(context), seen
        given = torch.tensor([fresh if cached else seen], device=device)
        with autocast():
            logits = model(given, cache=cache if cached else None)[:, -1].float()
        token = int(pick(logits, temperature, top_k, top_p, stream))
        if token == stop:
            return
        yield token
        fresh = [token]
        seen.append(token)


def text(model: GPT, tokenizer: Tokenizer, prompt: str, count: int, **options: Any) -> Iterator[str]:
    """Like `tokens`, from text to text; characters of several bytes come out whole."""
    ids = [int(i) for i in tokenizer.encode(prompt)]
    if not ids:
        ids = [tokenizer.eot] if tokenizer.eot is not None else [int(tokenizer.encode("\n\n")[0])]
    if options.get("stop") is None:
        options["stop"] = tokenizer.eot
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens(model, ids, count, **options):
        piece = decoder.decode(tokenizer.decode_bytes([token]))
        if piece:
            yield piece
    yield decoder.decode(b"", final=True)


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        _check(args)
        from gptx import load
        from gptx.device import autocast, compute_dtype

        model, tokenizer = load(args.run_dir, device=args.device)
        stop = None
        if args.stop:
            ids = [int(i) for i in tokenizer.encode(args.stop)]
            if len(ids) != 1:
                raise ConfigError(f"--stop {args.stop!r} is {len(ids)} tokens of this run's tokenizer, expected one")
            stop = ids[0]
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gptx.generate", description=__doc__)
    parser.add_argument(
        "run_dir", type=Path, help="the folder of a run, e.g. outputs/default/mha·rope·full·single·s0-…"
    )
    parser.add_argument("--prompt", default="", help="the text to go on from (default: the start of a document)")
    parser.add_argument("--tokens", type=int, default=500, help="how many tokens at most (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest (default %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k likeliest tokens (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the likeliest that sum to p (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument("--stop", default="", help="a token to stop at (default: the end of a document)")
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
