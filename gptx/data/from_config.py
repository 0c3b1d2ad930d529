"""Build the corpus, the tokenizer and the tokens that a config names."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.config.instantiate import part
from gptx.errors import ConfigError

if TYPE_CHECKING:
    from gptx.data.base import Corpus
    from gptx.data.tokens import Tokens
    from gptx.tokenizer.base import Tokenizer


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
