"""The checkpoint of another run that a run begins from (``resume_from``). Without torch."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from omegaconf import DictConfig

from gptx.errors import ConfigError
from gptx.runs.checkpoint_files import NAME, damage, number, step_name, steps
from gptx.runs.facts import ResumeSourceRecord
from gptx.runs.folder import RunFolder


@dataclass(frozen=True)
class ResumeSource:
    """Attributes:
    path: the checkpoint.
    run, uid: identity and uid of the run that it is of.
    remarks: why it is not the newest.
    """

    path: Path
    run: str
    uid: str
    remarks: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return number(self.path)

    def record(self) -> ResumeSourceRecord:
        """The same as the journal holds it."""
        return ResumeSourceRecord(identity=self.run, uid=self.uid, step=self.step)


@cache  # a process means the same one always, however that run goes on, and sums it up once
def find(given: str) -> ResumeSource | None:
    """What ``resume_from`` means, or None where it is empty. A checkpoint that is named is not looked at: a run that
    has begun from it needs it no more.

    Raises:
        ConfigError: no run, or none of its checkpoints is whole.
    """
    if not given:
        return None
    folder = run_of(given)
    start = RunFolder(folder).start_record()
    if start is None:
        raise ConfigError(f"resume_from={given}: there is no run in {folder} (python -m gptx.run makes one)")
    if NAME.fullmatch(Path(given).name):
        return ResumeSource(Path(given), start.identity, start.uid)
    remarks: list[str] = []
    for path in reversed(steps(folder / "checkpoints")):
        why = damage(path)
        if why is None:
            return ResumeSource(path, start.identity, start.uid, tuple(remarks))
        if not os.path.lexists(path):  # that run goes on, and keeps but the newest
            return find.__wrapped__(given)
        remarks.append(f"resume_from: {path} is damaged ({why}): going back to the one before it")
    reason = f"none of its checkpoints is whole ({why})" if remarks else "it has no checkpoint"
    raise ConfigError(f"resume_from={given}: {reason}")


def check(cfg: DictConfig, origin: ResumeSource) -> None:
    """For a run that is to begin now.

    Raises:
        ConfigError: the checkpoint is not there, is damaged, or leaves no step to train.
    """
    kept = ", ".join(path.name for path in steps(origin.path.parent)) or "no checkpoint"
    if not origin.path.is_dir():
        raise ConfigError(f"resume_from={cfg.resume_from} is not there: that run has {kept}")
    if NAME.fullmatch(Path(cfg.resume_from).name) and (why := damage(origin.path)):
        raise ConfigError(f"resume_from={cfg.resume_from}: {origin.path.name} is damaged ({why}); that run has {kept}")
    if cfg.trainer.max_steps <= origin.step:
        raise ConfigError(
            f"trainer.max_steps={cfg.trainer.max_steps} counts from the start of the run that resume_from names, which "
            f"stands at step {origin.step}: use more, such as trainer.max_steps={2 * origin.step}"
        )


def run_of(given: str) -> Path:
    """The folder of the run that ``resume_from`` means."""
    path = Path(given)
    return path.absolute().parents[1] if NAME.fullmatch(path.name) else path


def checkpoint_of(given: str, step: int) -> Path:
    """The checkpoint of a step of that run."""
    return run_of(given) / "checkpoints" / step_name(step)
