"""The files of a token folder: what they are made of, and whether they are intact."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gptx.data.base import Corpus
from gptx.data.split import SPLITS
from gptx.errors import GptxError
from gptx.regular_files import refuse_link, refuse_links
from gptx.runs.atomic_files import JsonObject, write_json
from gptx.runs.damaged_files import parse_json
from gptx.runs.hashing import digest, file_hash
from gptx.runs.json_codec import from_json, to_json
from gptx.runs.provenance import own_source
from gptx.tokenizer.base import Tokenizer, load

# Raise it when the same corpus and tokenizer would give other files, and with it `CORE_REVISION` of
# `gptx.config.identity`: the identity of a run does not contain it.
FORMAT = 1

DTYPES = ("uint16", "uint32")  # of token files; the first is for vocabularies of up to 2**16 ids
HASHES = "hashes.json"


@dataclass(frozen=True, kw_only=True)
class TokenSpec:
    """Everything that decides the content of a token folder; its hash is the folder's name.

    Attributes:
        corpus_hash, tokenizer_spec: the fingerprints.
        source: a hash of the source of a corpus or tokenizer of the user's own; "" for those of gptx.
    """

    corpus: str
    corpus_hash: str
    val_fraction: float
    max_tokens: int
    tokenizer: str
    tokenizer_spec: str
    format: int
    source: str = ""

    @classmethod
    def of(cls, corpus: Corpus, tokenizer: Tokenizer) -> "TokenSpec":
        """The spec of a corpus and a tokenizer in the present format."""
        return TokenSpec(
            corpus=corpus.name,
            corpus_hash=corpus.fingerprint(),
            val_fraction=corpus.val_fraction,
            max_tokens=corpus.max_tokens,
            tokenizer=tokenizer.name,
            tokenizer_spec=tokenizer.fingerprint(),
            format=FORMAT,
            source=own_source(type(corpus), type(tokenizer)),
        )

    def to_json(self) -> JsonObject:
        """The fields, without an empty ``source``: a spec without one is that of earlier versions."""
        return {key: value for key, value in asdict(self).items() if key != "source" or value}

    @property
    def folder_name(self) -> str:
        return digest([json.dumps(self.to_json())])[:16]


@dataclass(frozen=True, kw_only=True)
class TokenMeta(TokenSpec):
    """meta.json of a token folder.

    Attributes:
        tokenizer_hash: sha256 of tokenizer.json, the fitted tokenizer.
    """

    train_tokens: int
    val_tokens: int
    dtype: str
    tokenizer_hash: str


@dataclass(frozen=True, eq=False)
class Tokens:
    """A tokenised corpus.

    Attributes:
        train: (train_tokens,) uint16 or uint32, a read-only memory map.
        val: (val_tokens,).
        tokenizer: fitted.
        content_hash: of the ids of both splits.
    """

    train: np.ndarray
    val: np.ndarray
    tokenizer: Tokenizer
    meta: TokenMeta
    content_hash: str


def open_folder(home: Path, tokenizer: type[Tokenizer], thorough: bool) -> Tokens | None:
    """The tokens in a folder, or None if files are missing, do not match meta.json or the class of the tokenizer, or
    have another content than when they were written; see `content_hash` for ``thorough``.

    Raises:
        ConfigError: there is a symbolic link, see `gptx.regular_files`.
    """
    refuse_link(home)
    refuse_links(home)
    try:
        meta = TokenMeta(**parse_json((home / "meta.json").read_text(encoding="utf-8")))
        if file_hash(home / "tokenizer.json") != meta.tokenizer_hash:
            return None
        if meta.dtype not in DTYPES:
            return None
        train, val = (np.memmap(home / f"{split}.bin", dtype=meta.dtype, mode="r") for split in SPLITS)
        if (len(train), len(val)) != (meta.train_tokens, meta.val_tokens):
            return None
        content = content_hash(home, thorough)
        return Tokens(train, val, load(home / "tokenizer.json", tokenizer), meta, content) if content else None
    except (GptxError, OSError, ValueError, KeyError, TypeError, ImportError, AttributeError):
        return None


def content_hash(home: Path, thorough: bool = False) -> str:
    """The hash of the ids in a token folder, or "" if they are not those that were written.

    The first call stores the hash of each file with its size and time. Later calls read a file again only if its size
    or time has changed since, as in a copy. Folders of earlier versions have no hashes: they get those of their
    present content.

    Args:
        thorough: read all files again.
    """
    saved = _saved_hashes(home)
    found = {name: _hashed(home / name, None if thorough else saved.get(name)) for name in _BINS}
    if any(name in saved and saved[name].sha256 != found[name].sha256 for name in found):
        return ""
    if found != saved:
        with suppress(GptxError):  # a folder that cannot be written: the next process reads the files again
            write_json(home / HASHES, to_json(found))
    return digest(found[name].sha256 for name in _BINS)


_BINS = tuple(f"{split}.bin" for split in SPLITS)


@dataclass(frozen=True, kw_only=True)
class _FileHash:
    """The hash of a file, and the size and the time that the file had; -1: not known."""

    sha256: str
    size: int = -1
    mtime_ns: int = -1


def _hashed(path: Path, known: _FileHash | None) -> _FileHash:
    """The hash of a file, from ``known`` if its size and time are still the same."""
    status = path.stat()
    if known and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns):
        return known
    return _FileHash(sha256=file_hash(path), size=status.st_size, mtime_ns=status.st_mtime_ns)


def _saved_hashes(home: Path) -> dict[str, _FileHash]:
    """The entries of hashes.json that can be read."""
    try:
        found = parse_json((home / HASHES).read_text(encoding="utf-8"))
        return {name: from_json(_FileHash, found[name]) for name in _BINS if isinstance(found[name]["sha256"], str)}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
