"""Checkpoints: written atomically, with checksums. Only the last few checkpoints of a run stay on the disk.

A checkpoint is a folder in the format of torch.distributed.checkpoint: every rank writes its shards, in the background,
and any number of ranks under any strategy can read them.
"""

import contextlib
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import barrier
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import async_save

from gptx.errors import CheckpointError, RunFailed
from gptx.runs.atomic_files import no_space
from gptx.runs.checkpoint_files import CheckpointMeta, finish, meta, remove, step_name, steps
from gptx.training.checkpoint_reader import CheckpointReader

CLOSE_TIMEOUT = 60.0  # seconds that a rank which fails waits until the other ranks have written their shards


class Saver:
    """Writes ``folder/step-00000500/``, under a temporary name until it is complete on the disk.

    Args:
        keep: how many checkpoints remain; older ones are removed.
        group: a process group of all ranks on the CPU, for checkpoints alone; None: there is one process.
        first: whether this is the rank that completes the checkpoint when all ranks have written.
    """

    def __init__(self, folder: Path, keep: int, group: Any, first: bool) -> None:
        self.folder, self.keep, self.group, self.first = folder, keep, group, first
        _ignore_single_process_warning()
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None

    def save(self, tensors: dict[str, Tensor], meta: CheckpointMeta) -> None:
        """Copy the tensors and return; they are written in the background.

        Args:
            tensors: see the function `tensors`.
            meta: the state of training.

        Raises:
            CheckpointError: the previous checkpoint could not be written.
        """
        self.wait()
        final = self.folder / step_name(meta.step)
        part = self.folder / f".{final.name}.part"
        writer = FileSystemWriter(part)
        copied = async_save(tensors, storage_writer=writer, process_group=self.group, no_dist=self.group is None)
        written = copied if isinstance(copied, Future) else copied.upload_completion
        self.pending = self.thread.submit(self._complete, written, part, final, meta)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, with the shards of all ranks.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for the checkpoint that is being written, because a run that failed resumes from it; then stop.

        The other ranks may hang, so the wait for them has a timeout.
        """
        if self.pending is not None:
            wait_for([self.pending], None if self.group is None else CLOSE_TIMEOUT)
        self.thread.shutdown(wait=self.group is None)

    def _complete(self, written: "Future[Any]", part: Path, final: Path, meta: CheckpointMeta) -> None:
        reason = self._finish(written, part, final, meta)
        if self.group is not None:
            with contextlib.suppress(RuntimeError):  # a rank has died; training will report it
                barrier(self.group)
        if reason:
            shutil.rmtree(part, ignore_errors=True)
            raise CheckpointError(f"could not save the checkpoint {final.name} in {self.folder}: {reason}")

    def _finish(self, written: "Future[Any]", part: Path, final: Path, meta: CheckpointMeta) -> str:
        """Wait for the shards and complete the checkpoint; returns why that failed, or an empty string."""
        try:
            metadata = written.result()
            if self.first:
                _check_files(part, metadata)
                finish(part, final, meta)
                for old in steps(self.folder)[: -self.keep]:
                    remove(old)
            return ""
        except (OSError, RunFailed, RuntimeError, CheckpointException) as error:
            cause = _cause(error)
            hidden = "inline_container" in cause  # torch's writer does not report a full disk
            return (no_space(self.folder) if hidden else "") or cause


def _check_files(part: Path, metadata: Any) -> None:
    """Check that the files of all ranks are in this folder."""
    existing = {path.name for path in part.iterdir()}
    if missing := sorted({entry.relative_path for entry in metadata.storage_data.values()} - existing):
        raise OSError(f"{missing[0]} is missing: paths.outputs must be a folder that all machines share")


def _ignore_single_process_warning() -> None:
    """Ignore torch's warning that a single process saves without torch.distributed, which is intended here."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def _cause(error: BaseException) -> str:
    """The first error that a rank reported, in one line."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (first, _) = min(error.failures.items())
        return f"{' '.join(str(first).split())} (rank {rank})"
    return " ".join(str(error).split())


def tensors(model: nn.Module, optim: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of a checkpoint: ``model.<name>`` and ``optim.<name>.<key>``, the same names for every strategy."""
    found = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        found |= {f"optim.{name}.{key}": value for key, value in optim.state.get(parameter, {}).items()}
    return found


def load(path: Path, model: nn.Module, optim: torch.optim.Optimizer) -> CheckpointMeta:
    """Read a checkpoint into model and optimiser, each rank its shards; returns its meta.json.

    Raises:
        CheckpointError: the checkpoint belongs to another model, or cannot be read.
    """
    _ignore_single_process_warning()
    reader = CheckpointReader(path)
    try:
        sizes = _sizes(path, reader)
        _check_names(path, {f"model.{name}": t.shape for name, t in model.state_dict().items()}, sizes)
        for name, parameter in model.named_parameters():
            optim.state[parameter] = _blank_moments(name, parameter, sizes)
        load_shards(tensors(model, optim), storage_reader=reader, no_dist=True)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise CheckpointError(f"could not read the checkpoint {path}: {_cause(error)}") from None
    return meta(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All full tensors of a checkpoint, assembled from the shards of all ranks, under the names of `tensors`.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    _ignore_single_process_warning()
    reader = CheckpointReader(path)
    sizes = _sizes(path, reader)
    try:
        found = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in sizes.items()}
        load_shards(found, storage_reader=reader, no_dist=True)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise CheckpointError(f"could not read the checkpoint {path}: {_cause(error)}") from None
    return found


def check_model(path: Path, model: nn.Module) -> None:
    """Check that a checkpoint belongs to this model.

    Raises:
        CheckpointError: a weight is missing in one of the two, or has another shape.
    """
    sizes = _sizes(path, CheckpointReader(path))
    own = {f"model.{name}": tensor.shape for name, tensor in model.state_dict().items()}
    _check_names(path, own, sizes)
    extra = sorted(name.removeprefix("model.") for name in sizes if name.startswith("model.") and name not in own)
    if extra:
        raise CheckpointError(f"{path} is of another model: it has {extra[0]}, which this model does not have")


Sizes = dict[str, tuple[torch.Size, torch.dtype]]


def _sizes(path: Path, reader: CheckpointReader) -> Sizes:
    """Shape and dtype of each tensor of a checkpoint."""
    try:
        found = reader.read_metadata().state_dict_metadata
    except (OSError, ValueError) as error:
        raise CheckpointError(f"could not read the checkpoint {path}: {error}") from None
    entries = {name: entry for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}
    return {name: (entry.size, entry.properties.dtype) for name, entry in entries.items()}


def _check_names(path: Path, own: dict[str, torch.Size], sizes: Sizes) -> None:
    for full, shape in own.items():
        name = full.removeprefix("model.")
        if full not in sizes:
            raise CheckpointError(f"{path} is of another model: it has no {name}")
        if sizes[full][0] != shape:
            given, expected = tuple(sizes[full][0]), tuple(shape)
            raise CheckpointError(f"{path} is of another model: the shape of {name} is {given}, expected {expected}")


def _blank_moments(name: str, parameter: nn.Parameter, sizes: Sizes) -> dict[str, Tensor]:
    """Zero tensors to load the optimiser's state of one parameter into. Tensors with the shape of the parameter are
    sharded like the parameter."""
    blank, like = {}, parameter.detach()
    for full, (size, dtype) in sizes.items():
        owner, _, key = full.removeprefix("optim.").rpartition(".")
        if full.startswith("optim.") and owner == name:
            same_shape = size == like.shape
            blank[key] = (
                torch.zeros_like(like, dtype=dtype)
                if same_shape
                else torch.zeros(size, dtype=dtype, device=like.device)
            )
    return blank
