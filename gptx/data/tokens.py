"""Corpus + tokenizer -> train.bin, val.bin: memory-mapped files of token ids, shared by all runs.

A token folder appears whole or not at all (written beside, then renamed); one process makes it, others wait;
its name is the hash of all that decides its content, so it never changes and is never wrong to reuse.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptx.data.base import Corpus
from gptx.data.split import SIDES, Room
from gptx.errors import DataError, GptxError, NotTokenised
from gptx.runs.digest import digest, file_hash
from gptx.tokenizer.base import Tokenizer, load

FORMAT = 1  # to be raised whenever the same corpus and tokenizer would give other files


@dataclass(frozen=True, eq=False)
class Tokens:
    """A corpus, tokenised.

    ``meta``: corpus, corpus_hash, tokenizer, tokenizer_hash, train_tokens, val_tokens, dtype, val_fraction,
    max_tokens, format.
    """

    train: np.ndarray  # (train_tokens,) uint16 or uint32, a read-only memory map
    val: np.ndarray  # (val_tokens,)
    tokenizer: Tokenizer  # fitted
    meta: dict[str, Any]


def prepare(corpus: Corpus, tokenizer: Tokenizer, folder: Path, quiet: bool = False, make: bool = True) -> Tokens:
    """The tokens of ``corpus``, from ``folder``, made now if they are not there. Any number of processes may ask at
    once.

    Args:
        quiet: neither bar nor lines on stderr.
        make: False: they are not to be made.

    Raises:
        DataError: they cannot be made; `NotTokenised`: they would have to be.
    """
    from filelock import FileLock

    spec = {
        "corpus": corpus.name,
        "corpus_hash": corpus.fingerprint(),
        "val_fraction": corpus.val_fraction,
        "max_tokens": corpus.max_tokens,
        "tokenizer": tokenizer.name,
        "tokenizer_spec": tokenizer.fingerprint(),
        "format": FORMAT,
    }
    home = folder / digest([json.dumps(spec)])[:16]
    if tokens := _open(home):
        return tokens
    if not make:
        raise NotTokenised(f"{corpus.name} is not tokenised with {tokenizer.name} yet")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(home.with_suffix(".lock")):
            if tokens := _open(home):  # another process was faster
                return tokens
            if home.exists():
                _say(f"warning: the token files in {home} are damaged: making them anew", quiet)
            _make(corpus, tokenizer, spec, home, quiet)
            tokens = _open(home)
    except OSError as exc:
        reason, full = exc.strerror or str(exc), exc.errno in (errno.ENOSPC, errno.EDQUOT)
        key = "paths.data=" if folder.name != ".data" else "paths.outputs= or paths.data="  # which follows from it
        raise DataError(f"cannot write token files to {folder}: {reason}; {'free space, or ' * full}set {key}") from exc
    assert tokens is not None, f"{home} was written just now"
    return tokens


def _make(corpus: Corpus, tokenizer: Tokenizer, spec: dict[str, Any], home: Path, quiet: bool) -> None:
    """Fill ``home``. Under the lock, so what lies in the temporary folder was left by a killed process."""
    part = home.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        with _progress(f"tokenising {corpus.name} with {tokenizer.name}", corpus.max_tokens, quiet) as advance:
            if tokenizer.needs_fit:
                tokenizer.fit(_fit_text(corpus, tokenizer, home.parent / "downloads"))
            meta = spec | _write(Room(corpus, home.parent / "downloads"), tokenizer, part, advance)
        (part / "tokenizer.json").write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
        meta["tokenizer_hash"] = file_hash(part / "tokenizer.json")
        (part / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        shutil.rmtree(home, ignore_errors=True)
        os.rename(part, home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fit_text(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> Iterator[str]:
    """At least the documents that will be encoded, since a token is a character or more."""
    room = Room(corpus, cache)
    for side, text in room:
        room.take(side, len(text))
        if side == "train" or tokenizer.fits_val:
            yield text


def _write(room: Room, tokenizer: Tokenizer, part: Path, advance: Callable[[int], None]) -> dict[str, Any]:
    """Append ids document by document to train.bin and val.bin, with a separator between two documents."""
    dtype = np.dtype(np.uint16 if tokenizer.n_vocab <= 2**16 else np.uint32)
    with open(part / "train.bin", "wb") as train, open(part / "val.bin", "wb") as val:
        files = {"train": train, "val": val}
        for side, text in room:
            pieces = [tokenizer.separator()] if room.used[side] else []
            for ids in (*pieces, tokenizer.encode(text)):
                taken = room.take(side, len(ids))
                files[side].write(ids[:taken].astype(dtype).tobytes())
                advance(taken)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())  # or a power cut after the rename could leave holes of the right size
    room.check()
    return {"train_tokens": room.used["train"], "val_tokens": room.used["val"], "dtype": dtype.name}


def _open(home: Path) -> Tokens | None:
    """The tokens in ``home``, or None where they are missing or not what their meta.json says."""
    try:
        meta = json.loads((home / "meta.json").read_text(encoding="utf-8"))
        if file_hash(home / "tokenizer.json") != meta["tokenizer_hash"]:
            return None
        maps = [np.memmap(home / f"{side}.bin", dtype=meta["dtype"], mode="r") for side in SIDES]
        if [len(tokens) for tokens in maps] != [meta["train_tokens"], meta["val_tokens"]]:
            return None
        return Tokens(maps[0], maps[1], load(home / "tokenizer.json"), meta)
    except (GptxError, OSError, ValueError, KeyError, TypeError, ImportError, AttributeError):
        return None


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _progress(label: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar that goes away when done, or one line where stderr is no terminal. Yields: count these tokens."""
    if quiet or not sys.stderr.isatty():
        _say(label, quiet)
        yield lambda taken: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total or None)
        yield lambda taken: bar.advance(task, taken)
