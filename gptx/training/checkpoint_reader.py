"""Read a checkpoint of torch.distributed.checkpoint without running code that its files may name.

torch unpickles the file .metadata, and a pickle may call any function. Here the pickle can only create the records that
torch writes, as plain data; they are checked, and torch's own objects are made from them. The tensors are read by
torch.load with ``weights_only=True``.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from gptx.errors import GptxError
from gptx.regular_files import open_regular

_METADATA = "torch.distributed.checkpoint.metadata"
# The classes that torch 2.11 to 2.13 writes, besides torch.Size and the dtypes.
_RECORDS = {
    *((_METADATA, name) for name in ("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    *((_METADATA, name) for name in ("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *((module, "PosixPath") for module in ("pathlib", "pathlib._local")),
}


class CheckpointReader(FileSystemReader):
    """Reads the checkpoint in a folder.

    Raises:
        ValueError: the file .metadata is not one of gptx's checkpoints.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.folder = path
        self._found: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._found is None:
            try:
                with open_regular(self.folder / ".metadata", "rb") as file:
                    self._found = _metadata(_Records(file).load())
            except (OSError, GptxError):
                raise
            except Exception as error:  # a damaged pickle can raise anything
                raise ValueError(f"not a checkpoint of gptx: {' '.join(str(error).split())[:200]}") from None
        return self._found


class _Record:
    """A record of the pickle: what was passed to create it, and its state."""

    arguments: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *arguments: Any) -> "_Record":
        record = super().__new__(cls)
        record.arguments = arguments
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Records(pickle.Unpickler):
    """Creates a `_Record` for each object of `_RECORDS`, and rejects everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            return type(name, (_Record,), {})
        found = vars(torch).get(name) if module == "torch" else None
        if isinstance(found, torch.dtype):
            return found
        if found is torch.Size:
            return tuple
        raise pickle.UnpicklingError(f"its .metadata names {module}.{name}, which no checkpoint has")


def _fields(record: Any, kind: str) -> Any:
    """The state of a record.

    Raises:
        TypeError: the object is no record of this kind.
    """
    if not isinstance(record, _Record) or type(record).__name__ != kind:
        raise TypeError(f"its .metadata has a {type(record).__name__}, expected a {kind}")
    return record.state


def _metadata(root: Any) -> Metadata:
    fields = _fields(root, "Metadata")
    tensors = {_text(name): _tensor(entry) for name, entry in _items(fields["state_dict_metadata"])}
    places = {_index(index): _place(entry) for index, entry in _items(fields["storage_data"])}
    return Metadata({**tensors}, storage_data=places, storage_meta=StorageMeta())


def _tensor(record: Any) -> TensorStorageMetadata:
    fields = _fields(record, "TensorStorageMetadata")
    dtype = _fields(fields["properties"], "TensorProperties")[0]
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"its .metadata has the dtype {dtype!r}"[:80])
    parts = [_fields(chunk, "ChunkStorageMetadata") for chunk in fields["chunks"]]
    chunks = [ChunkStorageMetadata(_size(part["offsets"]), _size(part["sizes"])) for part in parts]
    return TensorStorageMetadata(TensorProperties(dtype), _size(fields["size"]), chunks)


def _index(record: Any) -> MetadataIndex:
    fields = _fields(record, "MetadataIndex")
    offset, index = fields.get("offset"), fields.get("index")
    return MetadataIndex(
        _text(fields["fqn"]), None if offset is None else _size(offset), None if index is None else _whole(index)
    )


def _place(record: Any) -> _StorageInfo:
    """Where the bytes of a tensor are: in a file of the checkpoint, not of another folder, and not transformed."""
    fields = _fields(record, "_StorageInfo")
    name = _text(fields["relative_path"])
    if Path(name).name != name or fields.get("transform_descriptors"):
        raise ValueError(f"its .metadata names the file {name!r}"[:200])
    return _StorageInfo(name, _whole(fields["offset"]), _whole(fields["length"]))


def _items(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"its .metadata has a {type(value).__name__}, expected a dict")
    return value.items()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"its .metadata has a {type(value).__name__}, expected text")
    return value


def _size(value: Any) -> torch.Size:
    if not isinstance(value, tuple):
        raise TypeError(f"its .metadata has a {type(value).__name__}, expected a size")
    return torch.Size(map(_whole, value))


def _whole(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"its .metadata has {value!r}, expected a whole number"[:200])
    return value
