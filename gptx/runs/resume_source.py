"""The checkpoint of another run that a run starts from (``resume_from``). Does not import torch."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from omegaconf import DictConfig

from gptx.errors import ConfigError
from gptx.regular_files import refuse_links
from gptx.runs import journal
from gptx.runs.checkpoint_files import NAME, damage, step_name, step_of, steps
from gptx.runs.damaged_files import readable
from gptx.runs.folder import RunFolder
from gptx.runs.preflight_facts import ResumeSourceRecord


@dataclass(frozen=True)
class ResumeSource:
    """A checkpoint of another run.

    Attributes:
        path: the checkpoint.
        identity: identity of that run.
        uid: uid of that run.
        remarks: warnings about newer checkpoints that are damaged.
    """

    path: Path
    identity: str
    uid: str
    remarks: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return step_of(self.path)

    def record(self) -> ResumeSourceRecord:
        """This source as a journal record has it."""
        return ResumeSourceRecord(identity=self.identity, uid=self.uid, step=self.step)


@cache  # cached: a process uses one checkpoint even if that run continues, and computes its checksums once
def find(given: str) -> ResumeSource | None:
    """Find the checkpoint that ``given`` (the key ``resume_from``) names: a run folder or a checkpoint. Return None if
    ``given`` is empty.

    If it names a checkpoint, the files are not checked here: a run that has already started does not need them.

    Raises:
        ConfigError: there is no run, it contains a symbolic link, or none of its checkpoints is intact.
    """
    if not given:
        return None
    folder = run_of(given)
    refuse_links(folder)
    with readable(folder / journal.NAME):
        start = RunFolder(folder).start_record()
    if start is None:
        raise ConfigError(f"resume_from={given}: there is no run in {folder}; gptx run makes one")
    if NAME.fullmatch(Path(given).name):
        return ResumeSource(Path(given), start.identity, start.uid)
    remarks: list[str] = []
    for path in reversed(steps(folder / "checkpoints")):
        reason = damage(path)
        if reason is None:
            return ResumeSource(path, start.identity, start.uid, tuple(remarks))
        if not os.path.lexists(path):  # that run still trains, and has removed it
            return find.__wrapped__(given)
        remarks.append(f"resume_from: {path} is damaged ({reason}): using the checkpoint before it")
    problem = f"none of its checkpoints is intact ({reason})" if remarks else "it has no checkpoint"
    raise ConfigError(f"resume_from={given}: {problem}")


def check(cfg: DictConfig, source: ResumeSource) -> None:
    """Check the resume source of a run that is about to start.

    Raises:
        ConfigError: the checkpoint is missing or damaged, or leaves no step to train.
    """
    existing = f"that run has {', '.join(path.name for path in steps(source.path.parent)) or 'no checkpoint'}"
    if not source.path.is_dir():
        raise ConfigError(f"resume_from={cfg.resume_from} does not exist: {existing}")
    if NAME.fullmatch(Path(cfg.resume_from).name) and (reason := damage(source.path)):
        raise ConfigError(f"resume_from={cfg.resume_from}: {source.path.name} is damaged ({reason}); {existing}")
    if cfg.trainer.max_steps <= source.step:
        raise ConfigError(
            f"trainer.max_steps={cfg.trainer.max_steps} includes the steps of the run that resume_from names, which is "
            f"at step {source.step}: use more, such as trainer.max_steps={2 * source.step}"
        )


def run_of(given: str) -> Path:
    """The folder of the run that ``resume_from`` names."""
    path = Path(given)
    return path.absolute().parents[1] if NAME.fullmatch(path.name) else path


def checkpoint_of(given: str, step: int) -> Path:
    """The checkpoint of a step of the run that ``resume_from`` names."""
    return run_of(given) / "checkpoints" / step_name(step)
