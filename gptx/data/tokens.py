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
from itertools import chain
from pathlib import Path

import numpy as np

from gptx.cli import log
from gptx.data.base import Corpus, Document
from gptx.data.id_array import IdArray
from gptx.data.long_text import pieces
from gptx.data.split import LimitedCorpus
from gptx.data.token_files import DTYPES, TokenMeta, Tokens, TokenSpec, content_hash, open_folder
from gptx.errors import DataError, NotTokenised
from gptx.regular_files import refuse_link, refuse_links
from gptx.runs.hashing import file_hash
from gptx.terminal import echo
from gptx.tokenizer.base import Tokenizer

__all__ = ["TokenMeta", "TokenSpec", "Tokens", "prepare"]


def prepare(
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: Path,
    quiet: bool = False,
    create: bool = True,
    thorough: bool = False,
) -> Tokens:
    """The tokens of ``corpus``, from a token folder in ``folder``. Several processes may call this at once.

    Args:
        quiet: show neither a progress bar nor a line on stderr.
        create: whether to create token files that do not exist.
        thorough: read existing token files again and compare their hashes, also if their time has not changed.

    Raises:
        NotTokenised: the token files do not exist and ``create`` is False.
        DataError: the token files cannot be created.
    """
    spec = TokenSpec.of(corpus, tokenizer)
    home = folder / spec.folder_name
    if tokens := open_folder(home, type(tokenizer), thorough):
        return tokens
    if not create:
        raise NotTokenised(f"{corpus.name} is not tokenised with {tokenizer.name} yet")
    try:
        tokens = _create_once(corpus, tokenizer, spec, home, quiet, thorough)
    except OSError as exc:
        reason, full = exc.strerror or str(exc), exc.errno in (errno.ENOSPC, errno.EDQUOT)
        key = "paths.data" if folder.name != ".data" else "paths.outputs or paths.data"  # the default: in outputs
        raise DataError(
            f"cannot write token files to {folder}: {reason}; {'free space, or ' * full}change {key}"
        ) from exc
    assert tokens is not None, f"{home} was written just now"
    return tokens


def _create_once(
    corpus: Corpus, tokenizer: Tokenizer, spec: TokenSpec, home: Path, quiet: bool, thorough: bool
) -> Tokens | None:
    """Write the token folder and open it. If another process is writing it, only wait for that process."""
    from filelock import FileLock

    home.parent.mkdir(parents=True, exist_ok=True)
    refuse_link(home.with_suffix(".lock"))
    with FileLock(home.with_suffix(".lock")):
        if tokens := open_folder(home, type(tokenizer), thorough):  # another process was faster
            return tokens
        if home.exists() and not quiet:
            log.warning("the token files in %s are damaged; creating them again", home)
        _create(corpus, tokenizer, spec, home, quiet)
        for remark in corpus.remarks() if not quiet else ():
            _print(remark)
        return open_folder(home, type(tokenizer), thorough=False)


def _create(corpus: Corpus, tokenizer: Tokenizer, spec: TokenSpec, home: Path, quiet: bool) -> None:
    """Write the token folder. The caller holds the lock: an existing temporary folder is that of a killed process."""
    part = home.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        cache = home.parent / "downloads"
        refuse_link(cache)
        refuse_links(cache)
        with _progress(f"tokenising {corpus.name} with {tokenizer.name}", corpus.max_tokens, quiet) as advance:
            if tokenizer.needs_fit:
                tokenizer.fit(_fit_text(corpus, tokenizer, cache))
            dtype = np.dtype(DTYPES[tokenizer.n_vocab > 2**16])
            used = _write_splits(LimitedCorpus(corpus, cache), tokenizer, dtype, part, advance)
        (part / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
        meta = TokenMeta(
            **spec.to_json(),
            train_tokens=used["train"],
            val_tokens=used["val"],
            dtype=dtype.name,
            tokenizer_hash=file_hash(part / "tokenizer.json"),
        )
        (part / "meta.json").write_text(json.dumps(meta.to_json(), indent=1), encoding="utf-8")
        content_hash(part)
        if corpus.fingerprint() != spec.corpus_hash:
            raise DataError(f"the text of corpus {corpus.name} changed while it was tokenised; start again")
        shutil.rmtree(home, ignore_errors=True)
        os.rename(part, home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fit_text(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> Iterator[str]:
    """Yield the documents for fitting, in parts: at least all that will be encoded, as a token has one character or
    more."""
    limited = LimitedCorpus(corpus, cache)
    for split, text in limited:
        if isinstance(text, IdArray):
            raise DataError(f"tokenizer={tokenizer.name} learns from text, but corpus {corpus.name} has ids already")
        limited.take(split, len(text) if corpus.max_tokens else 1)
        if split == "train" or tokenizer.fits_val:
            yield from pieces(text, tokenizer.cut)


def _write_splits(
    corpus: LimitedCorpus, tokenizer: Tokenizer, dtype: np.dtype, part: Path, advance: Callable[[int], None]
) -> dict[str, int]:
    """Write train.bin and val.bin, with a separator between two documents; return the number of tokens by split."""
    with open(part / "train.bin", "wb") as train, open(part / "val.bin", "wb") as val:
        files = {"train": train, "val": val}
        for split, document in corpus:
            separator = [tokenizer.separator()] if corpus.used[split] else []
            for ids in chain(separator, _encoded(document, tokenizer)):
                taken = corpus.take(split, len(ids))
                files[split].write(ids[:taken].astype(dtype).tobytes())
                advance(taken)
                if not corpus.remaining[split]:
                    break
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())  # else a power cut after the rename could leave files of the right size with holes
    corpus.check_not_empty()
    return corpus.used


def _encoded(document: Document, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    if isinstance(document, IdArray):
        return document.chunks(tokenizer.n_vocab)
    return map(tokenizer.encode, pieces(document, tokenizer.cut))


@contextmanager
def _progress(label: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar that is erased at the end, or one line where stderr is no terminal. Yields a function that
    advances the bar by a number of tokens."""
    if quiet or not sys.stderr.isatty():
        if not quiet:
            _print(label)
        yield lambda taken: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from gptx.console import Console

    description = TextColumn("{task.description}", markup=False)  # a name of a corpus is no markup
    columns = (description, BarColumn(), MofNCompleteColumn(), TextColumn("tokens"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total or None)
        yield lambda taken: bar.advance(task, taken)


def _print(line: str) -> None:
    with suppress(BrokenPipeError):
        echo(line, file=sys.stderr)
