"""Hydra's `_target_`s become parts. No torch here: a finished run and a typo are answered without it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from gptx.errors import ConfigError

if TYPE_CHECKING:
    from gptx.data.base import Corpus
    from gptx.data.tokens import Tokens
    from gptx.tokenizer.base import Tokenizer


def part(cfg: DictConfig, *args: Any) -> Any:
    """One part from its YAML: positional arguments are given here, keyword arguments are the YAML's keys.

    Raises:
        ConfigError: there is no such part, or its constructor does not take the keys of its YAML.
        Exception: what the constructor raised (a `GptxError` if it refuses), which Hydra would wrap in its own.
    """
    try:
        return instantiate(cfg, *args)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ImportError) or _is_of_the_call(cause):
            where = str(cfg._get_full_key(None))
            reason = " ".join(str(cause).split())
            raise ConfigError(f"{where}._target_={cfg.get('_target_')}: {reason}") from None
        if cause is not None:
            raise cause from None
        raise


def _is_of_the_call(error: BaseException | None) -> bool:
    """Whether the arguments did not fit: then Hydra's is the last frame, and no line of the part has run."""
    frame = error.__traceback__ if isinstance(error, TypeError) else None
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith("hydra.")


def corpus(cfg: DictConfig) -> "Corpus":
    data = cfg.data.copy()
    data.pop("document_mask", None)  # is for whoever trains: the text is the same
    found: Corpus = part(data)
    return found


def tokens(cfg: DictConfig, quiet: bool = True, make: bool = True) -> "Tokens":
    """The tokenised corpus of a config, from the cache, or made now. ``quiet``, ``make``: see `prepare`."""
    from gptx.data.tokens import prepare

    return prepare(corpus(cfg), part(cfg.tokenizer), Path(cfg.paths.data), quiet, make)


def separator(cfg: DictConfig, tokenizer: "Tokenizer") -> int | None:
    """The token between documents, where `data.document_mask` hides documents from one another; None: not.

    Raises:
        ConfigError: the tokenizer has no such token.
    """
    if not cfg.data.get("document_mask", False):
        return None
    if tokenizer.eot is None:
        raise ConfigError(
            f"data.document_mask=true needs a token between documents, which tokenizer={tokenizer.name} has not: "
            "tokenizer=byte, gpt2 or bpe has"
        )
    return tokenizer.eot


def tokenizer(cfg: DictConfig) -> "Tokenizer":
    """The tokenizer of a config; one that learns its vocabulary is fitted on the corpus first."""
    found: Tokenizer = part(cfg.tokenizer)
    return tokens(cfg).tokenizer if found.needs_fit else found
