"""Corpus + tokenizer -> train.bin and val.bin: memory-mapped files of token ids, shared by all runs.

The name of a token folder is a hash of everything that decides its content, so a folder never changes. One process
creates it under a temporary name and renames it when it is complete; other processes wait for that.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gptx.cli import log
from gptx.data.base import Corpus
from gptx.data.split import SPLITS, LimitedCorpus
from gptx.errors import DataError, GptxError, NotTokenised
from gptx.runs.hashing import digest, file_hash
from gptx.terminal import echo
from gptx.tokenizer.base import Tokenizer, load

# Raise it when the same corpus and tokenizer would give other files, and with it `CORE_REVISION` of
# `gptx.config.identity`: the identity of a run does not contain it.
FORMAT = 1


@dataclass(frozen=True)
class TokenSpec:
    """Everything that decides the content of a token folder; its hash is the folder's name.

    Attributes:
        corpus_hash, tokenizer_spec: the fingerprints.
    """

    corpus: str
    corpus_hash: str
    val_fraction: float
    max_tokens: int
    tokenizer: str
    tokenizer_spec: str
    format: int

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
        )

    @property
    def folder_name(self) -> str:
        return digest([json.dumps(asdict(self))])[:16]


@dataclass(frozen=True)
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
    """

    train: np.ndarray
    val: np.ndarray
    tokenizer: Tokenizer
    meta: TokenMeta


def prepare(corpus: Corpus, tokenizer: Tokenizer, folder: Path, quiet: bool = False, create: bool = True) -> Tokens:
    """The tokens of ``corpus``, from a token folder in ``folder``. Several processes may call this at once.

    Args:
        quiet: show neither a progress bar nor a line on stderr.
        create: whether to create token files that do not exist.

    Raises:
        NotTokenised: the token files do not exist and ``create`` is False.
        DataError: the token files cannot be created.
    """
    spec = TokenSpec.of(corpus, tokenizer)
    home = folder / spec.folder_name
    if tokens := _open(home):
        return tokens
    if not create:
        raise NotTokenised(f"{corpus.name} is not tokenised with {tokenizer.name} yet")
    try:
        tokens = _create_once(corpus, tokenizer, spec, home, quiet)
    except OSError as exc:
        reason, full = exc.strerror or str(exc), exc.errno in (errno.ENOSPC, errno.EDQUOT)
        key = "paths.data" if folder.name != ".data" else "paths.outputs or paths.data"  # the default: in outputs
        raise DataError(
            f"cannot write token files to {folder}: {reason}; {'free space, or ' * full}change {key}"
        ) from exc
    assert tokens is not None, f"{home} was written just now"
    return tokens


def _create_once(corpus: Corpus, tokenizer: Tokenizer, spec: TokenSpec, home: Path, quiet: bool) -> Tokens | None:
    """Write the token folder and open it. If another process is writing it, only wait for that process."""
    from filelock import FileLock

    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_suffix(".lock")):
        if tokens := _open(home):  # another process was faster
            return tokens
        if home.exists() and not quiet:
            log.warning("the token files in %s are damaged; creating them again", home)
        _create(corpus, tokenizer, spec, home, quiet)
        return _open(home)


def _create(corpus: Corpus, tokenizer: Tokenizer, spec: TokenSpec, home: Path, quiet: bool) -> None:
    """Write the token folder. The caller holds the lock: an existing temporary folder is that of a killed process."""
    part = home.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        cache = home.parent / "downloads"
        with _progress(f"tokenising {corpus.name} with {tokenizer.name}", corpus.max_tokens, quiet) as advance:
            if tokenizer.needs_fit:
                tokenizer.fit(_fit_text(corpus, tokenizer, cache))
            dtype = np.dtype(np.uint16 if tokenizer.n_vocab <= 2**16 else np.uint32)
            used = _write_splits(LimitedCorpus(corpus, cache), tokenizer, dtype, part, advance)
        (part / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
        meta = TokenMeta(
            **asdict(spec),
            train_tokens=used["train"],
            val_tokens=used["val"],
            dtype=dtype.name,
            tokenizer_hash=file_hash(part / "tokenizer.json"),
        )
        (part / "meta.json").write_text(json.dumps(asdict(meta), indent=1), encoding="utf-8")
        shutil.rmtree(home, ignore_errors=True)
        os.rename(part, home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fit_text(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> Iterator[str]:
    """Yield the documents for fitting: at least all that will be encoded, as a token has one character or more."""
    limited = LimitedCorpus(corpus, cache)
    for split, text in limited:
        limited.take(split, len(text))
        if split == "train" or tokenizer.fits_val:
            yield text


def _write_splits(
    corpus: LimitedCorpus, tokenizer: Tokenizer, dtype: np.dtype, part: Path, advance: Callable[[int], None]
) -> dict[str, int]:
    """Write train.bin and val.bin, with a separator between two documents; return the number of tokens by split."""
    with open(part / "train.bin", "wb") as train, open(part / "val.bin", "wb") as val:
        files = {"train": train, "val": val}
        for split, text in corpus:
            separator = [tokenizer.separator()] if corpus.used[split] else []
            for ids in (*separator, tokenizer.encode(text)):
                taken = corpus.take(split, len(ids))
                files[split].write(ids[:taken].astype(dtype).tobytes())
                advance(taken)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())  # else a power cut after the rename could leave files of the right size with holes
    corpus.check_not_empty()
    return corpus.used


def _open(home: Path) -> Tokens | None:
    """The tokens in ``home``, or None if files are missing or do not match meta.json."""
    try:
        meta = TokenMeta(**json.loads((home / "meta.json").read_text(encoding="utf-8")))
        if file_hash(home / "tokenizer.json") != meta.tokenizer_hash:
            return None
        train, val = (np.memmap(home / f"{split}.bin", dtype=meta.dtype, mode="r") for split in SPLITS)
        if (len(train), len(val)) != (meta.train_tokens, meta.val_tokens):
            return None
        return Tokens(train, val, load(home / "tokenizer.json"), meta)
    except (GptxError, OSError, ValueError, KeyError, TypeError, ImportError, AttributeError):
        return None


@contextmanager
def _progress(label: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar that is erased at the end, or one line where stderr is no terminal. Yields a function that
    advances the bar by a number of tokens."""
    if quiet or not sys.stderr.isatty():
        if not quiet:
            with suppress(BrokenPipeError):
                echo(label, file=sys.stderr)
        yield lambda taken: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from gptx.console import Console

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn("tokens"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total or None)
        yield lambda taken: bar.advance(task, taken)
