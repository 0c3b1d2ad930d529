"""Hydra's `_target_`s become parts. No torch here: a finished run and a typo are answered without it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from gptx.errors import GptxError

if TYPE_CHECKING:
    from gptx.data.base import Corpus
    from gptx.data.tokens import Tokens
    from gptx.tokenizer.base import Tokenizer


def part(cfg: DictConfig, *args: Any) -> Any:
    """One part from its YAML: positional arguments are given here, keyword arguments are the YAML's keys.

    Raises:
        GptxError: in the part's own words, which Hydra would wrap in its own.
    """
    try:
        return instantiate(cfg, *args)
    except InstantiationException as error:
        if isinstance(error.__cause__, GptxError):
            raise error.__cause__ from None
        raise


def corpus(cfg: DictConfig) -> "Corpus":
    found: Corpus = part(cfg.data)
    return found


def tokens(cfg: DictConfig, quiet: bool = True) -> "Tokens":
    """The tokenised corpus of a config, from the cache, or made now."""
    from gptx.data.tokens import prepare

    return prepare(corpus(cfg), part(cfg.tokenizer), Path(cfg.paths.data), quiet=quiet)


def tokenizer(cfg: DictConfig) -> "Tokenizer":
    """The tokenizer of a config; one that learns its vocabulary is fitted on the corpus first."""
    found: Tokenizer = part(cfg.tokenizer)
    return tokens(cfg).tokenizer if found.needs_fit else found
