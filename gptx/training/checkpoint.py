"""Checkpoints: written whole or not at all, checksummed, the last few kept.

A checkpoint is a folder in the format of torch.distributed.checkpoint: every process writes its part, in the
background, and what was written by some processes under one strategy is read by others under another.
"""

import contextlib
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as all_done
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import barrier
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import async_save

from gptx.errors import CheckpointError, RunFailed
from gptx.runs.checkpoint_files import finish, meta, remove, step_name, steps
from gptx.runs.files import no_space

PATIENCE = 60.0  # seconds that a process which fails waits until the others have what was saved on the disk


class Saver:
    """Writes ``folder/step-00000500/``: under a temporary name, which is changed when all of it is on the disk.

    Args:
        keep: how many checkpoints stay.
        group: of all processes of the run, on the CPU and for checkpoints alone; None: this one is the only one.
        first: whether this process is the one that seals what all have written.
    """

    def __init__(self, folder: Path, keep: int, group: Any, first: bool) -> None:
        self.folder, self.keep, self.group, self.first = folder, keep, group, first
        _quiet()
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Copy the tensors and return: training goes on while they are written. ``facts`` stand in meta.json.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.wait()
        final = self.folder / step_name(step)
        part = self.folder / f".{final.name}.part"
        writer = FileSystemWriter(part)
        copied = async_save(tensors, storage_writer=writer, process_group=self.group, no_dist=self.group is None)
        written = copied if isinstance(copied, Future) else copied.upload_completion
        self.pending = self.thread.submit(self._seal, written, part, final, {"step": step, **facts})

    def wait(self) -> None:
        """Until all that was saved, by whatever process, is on the disk.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """No more is saved. What is in hand is waited for: the run that fails is to go on from it, and nobody writes
        when it is left. Other processes may hang: they are not waited for without end."""
        if self.pending is not None:
            all_done([self.pending], None if self.group is None else PATIENCE)
        self.thread.shutdown(wait=self.group is None)

    def _seal(self, written: "Future[Any]", part: Path, final: Path, facts: dict[str, Any]) -> None:
        why = self._finish(written, part, final, facts)
        if self.group is not None:
            with contextlib.suppress(RuntimeError):  # one is gone: whoever trains with it will say so
                barrier(self.group)
        if why:
            shutil.rmtree(part, ignore_errors=True)
            raise CheckpointError(f"could not save the checkpoint {final.name} in {self.folder}: {why}")

    def _finish(self, written: "Future[Any]", part: Path, final: Path, facts: dict[str, Any]) -> str:
        """Why it could not be; "": it is on the disk, as far as this process has to see to it."""
        try:
            metadata = written.result()
            if self.first:
                _check_files(part, metadata)
                finish(part, final, facts)
                for old in steps(self.folder)[: -self.keep]:
                    remove(old)
            return ""
        except (OSError, RunFailed, RuntimeError, CheckpointException) as error:
            cause = _cause(error)
            hidden = "inline_container" in cause  # torch's own writer does not say why it was cut short
            return (no_space(self.folder) if hidden else "") or cause


def _check_files(part: Path, metadata: Any) -> None:
    """Every process has written its files; are they here?"""
    here = {path.name for path in part.iterdir()}
    if missing := sorted({entry.relative_path for entry in metadata.storage_data.values()} - here):
        raise OSError(f"{missing[0]} is not there: paths.outputs has to be one folder that all machines share")


def _quiet() -> None:
    """One process that saves by itself is meant so."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def _cause(error: BaseException) -> str:
    """What went wrong first, of all that the processes report."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (first, _) = min(error.failures.items())
        return f"{' '.join(str(first).split())} (rank {rank})"
    return " ".join(str(error).split())


def tensors(model: nn.Module, optim: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What a checkpoint holds: ``model.<name>`` and ``optim.<name>.<key>``, under names that no strategy changes."""
    found = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        found |= {f"optim.{name}.{key}": value for key, value in optim.state.get(parameter, {}).items()}
    return found


def load(path: Path, model: nn.Module, optim: torch.optim.Optimizer) -> dict[str, Any]:
    """Read a checkpoint into model and optimiser, each process its part; returns its meta.json.

    Raises:
        CheckpointError: it is of another model, or cannot be read.
    """
    _quiet()
    reader = FileSystemReader(path)
    try:
        sizes = _sizes(path, reader)
        _check_names(path, {f"model.{name}": t.shape for name, t in model.state_dict().items()}, sizes)
        for name, parameter in model.named_parameters():
            optim.state[parameter] = _blank_moments(name, parameter, sizes)
        load_parts(tensors(model, optim), storage_reader=reader, no_dist=True)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"could not read the checkpoint {path}: {_cause(error)}") from None
    return meta(path)


def whole(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, put together from what its processes wrote, under the names of `tensors`.

    Raises:
        CheckpointError: it cannot be read.
    """
    _quiet()
    reader = FileSystemReader(path)
    found = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in _sizes(path, reader).items()}
    try:
        load_parts(found, storage_reader=reader, no_dist=True)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        raise CheckpointError(f"could not read the checkpoint {path}: {_cause(error)}") from None
    return found


def check_model(path: Path, model: nn.Module) -> None:
    """Refuse a checkpoint that is not of this model.

    Raises:
        CheckpointError: a weight is missing there or here, or has another shape.
    """
    sizes = _sizes(path, FileSystemReader(path))
    own = {f"model.{name}": tensor.shape for name, tensor in model.state_dict().items()}
    _check_names(path, own, sizes)
    extra = sorted(name.removeprefix("model.") for name in sizes if name.startswith("model.") and name not in own)
    if extra:
        raise CheckpointError(f"{path} is of another model: it has {extra[0]}, which this one lacks")


def _sizes(path: Path, reader: FileSystemReader) -> dict[str, Any]:
    """Shape and type of each tensor of a checkpoint."""
    try:
        found = reader.read_metadata().state_dict_metadata
    except Exception as error:  # it is a pickle: what a damaged one raises can be anything
        raise CheckpointError(f"could not read the checkpoint {path}: {type(error).__name__}: {error}") from None
    tensors = {name: entry for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}
    return {name: (entry.size, entry.properties.dtype) for name, entry in tensors.items()}


def _check_names(path: Path, own: dict[str, torch.Size], sizes: dict[str, Any]) -> None:
    for name, shape in own.items():
        if name not in sizes:
            raise CheckpointError(f"{path} is of another model: it has no {name.removeprefix('model.')}")
        if sizes[name][0] != shape:
            there, here = tuple(sizes[name][0]), tuple(shape)
            raise CheckpointError(
                f"{path} is of another model: {name.removeprefix('model.')} is {there} there, {here} here"
            )


def _blank_moments(name: str, parameter: nn.Parameter, sizes: dict[str, Any]) -> dict[str, Tensor]:
    """The optimiser's state of one parameter, as the checkpoint has it, laid out as the parameter is."""
    blank, like = {}, parameter.detach()
    for full, (size, dtype) in sizes.items():
        place, _, key = full.removeprefix("optim.").rpartition(".")
        if full.startswith("optim.") and place == name:
            alike = size == like.shape
            one = torch.zeros(() if alike else size, dtype=dtype, device=like.device)
            blank[key] = torch.zeros_like(like, dtype=dtype) if alike else one
    return blank
