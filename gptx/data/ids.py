"""Token ids that were made outside gptx, in files of numpy or torch. Each file is a document."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gptx.data.base import Corpus
from gptx.data.file_list import FileList, find_files
from gptx.data.id_array import IdArray
from gptx.data.text import hash_of
from gptx.errors import DataError
from gptx.runs.hashing import digest

ID = "data.ids"
REVISION = 1


class IdCorpus(Corpus):
    """A corpus of ids.

    Args:
        path: files, folders or patterns.
    """

    name = "ids"

    def __init__(self, *, path: Sequence[str], val_fraction: float, max_tokens: int) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.path = path

    def fingerprint(self) -> str:
        try:
            return digest(["ids", *map(hash_of, self.files().files)])
        except OSError as exc:
            raise DataError(f"cannot read {exc.filename}: {exc.strerror}") from exc

    def documents(self, cache: Path) -> Iterator[IdArray]:
        for path in self.files().files:
            yield IdArray(_load(path), str(path))

    def remarks(self) -> list[str]:
        files = self.files()
        return [f"data.path: {files}"] if files.listed else []

    def files(self) -> FileList:
        """The files that ``path`` names.

        Raises:
            DataError: there are none.
        """
        if not any(self.path):
            raise DataError("data=ids needs data.path=FILE, an array that numpy.save or torch.save wrote")
        return find_files(self.path)


def _load(path: Path) -> np.ndarray:
    """The ids (n,) in a file, as a memory map if possible.

    Raises:
        DataError: the file has no array of integers with one dimension.
    """
    try:
        ids = _tensor(path) if path.suffix == ".pt" else np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, RuntimeError, EOFError) as exc:
        reason = " ".join(str(exc).split())
        raise DataError(f"{path} is no array of numpy.save (.npy) and no tensor of torch.save (.pt): {reason}") from exc
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        given = f"{ids.dtype} {ids.shape}" if isinstance(ids, np.ndarray) else f"a {type(ids).__name__}"
        raise DataError(f"{path} has {given}, expected integers with one dimension, (n,)")
    return ids


def _tensor(path: Path) -> object:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as exc:
        raise ValueError(str(exc).split("\n")[0]) from exc
    return found.numpy() if isinstance(found, torch.Tensor) else found
