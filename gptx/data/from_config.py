"""Create the corpus, the tokenizer and the tokens that a config names."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from gptx.config.instantiate import part
from gptx.errors import ConfigError

if TYPE_CHECKING:
    from gptx.data.base import Corpus
    from gptx.data.tokens import Tokens
    from gptx.tokenizer.base import Tokenizer


def corpus_of(cfg: DictConfig) -> "Corpus":
    """The corpus of a config."""
    # document_mask is a key for training: it does not change the text.
    data = {key: value for key, value in cfg.data.items() if key != "document_mask"}
    corpus: Corpus = part(OmegaConf.create({"data": data}).data)
    return corpus


def tokens_of(cfg: DictConfig, quiet: bool = True, create: bool = True, thorough: bool = False) -> "Tokens":
    """The tokenised corpus of a config: from the cache, or created now. The other arguments are those of `prepare`."""
    from gptx.data.tokens import prepare

    return prepare(corpus_of(cfg), part(cfg.tokenizer), Path(cfg.paths.data), quiet, create, thorough)


def tokenizer_of(cfg: DictConfig) -> "Tokenizer":
    """The tokenizer of a config; one that learns its vocabulary is fitted on the corpus."""
    tokenizer: Tokenizer = part(cfg.tokenizer)
    return tokens_of(cfg).tokenizer if tokenizer.needs_fit else tokenizer


def separator_of(cfg: DictConfig, tokenizer: "Tokenizer") -> int | None:
    """The token between documents, if `data.document_mask` hides the documents of a row from one another; else None.

    Raises:
        ConfigError: the tokenizer has no such token.
    """
    if not cfg.data.get("document_mask", False):
        return None
    if tokenizer.eot is None:
        raise ConfigError(
            f"data.document_mask=true needs an end-of-text token, which tokenizer={tokenizer.name} does not have: use "
            "tokenizer=byte, gpt2 or bpe"
        )
    return tokenizer.eot
