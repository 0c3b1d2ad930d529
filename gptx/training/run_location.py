"""Find the folder of a config's run. Does not import torch, so that a finished run is found quickly."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from gptx.config.identity import identity, run_name
from gptx.config.identity_v1 import identity_v1
from gptx.data import from_config
from gptx.errors import ConfigError
from gptx.runs import journal, resume_source
from gptx.runs.folder import RunFolder


@dataclass(frozen=True)
class Location:
    """Attributes:
    folder: folder of the run, which may not exist yet.
    identity: the run's identity.
    former: folder of a run of the same config that was made under identity scheme 1, where ``folder`` has no run.
    """

    folder: RunFolder
    identity: str
    former: RunFolder | None = None

    @property
    def existing(self) -> RunFolder:
        """The folder with the run's result or journal, if there is a run; else the folder that it will have."""
        return self.former or self.folder

    def check(self, force: bool) -> None:
        """Refuse to resume a run of identity scheme 1. Writes the result.json of a finished one if a kill prevented it.

        Raises:
            ConfigError: such a run exists and is not finished.
        """
        if self.former is None or force or self.former.finished():
            return
        with self.former.lock():
            self.former.settle()
        if not self.former.finished():
            raise ConfigError(
                f"{self.former.path} was started by an earlier version of gptx and is not finished; it cannot be "
                "resumed: use force=true to train it again from the start"
            )


def locate(cfg: DictConfig) -> Location:
    """Find the run of a config under ``paths.outputs``.

    Raises:
        ConfigError: ``study`` is not the name of a folder, or ``resume_from`` names no checkpoint.
    """
    if not cfg.study or cfg.study.startswith(".") or "/" in cfg.study:
        raise ConfigError(f"study={cfg.study}: expected the name of a folder, without '/' and not starting with '.'")
    source = resume_source.find(cfg.resume_from)
    origin = f"{source.identity}@{source.step}" if source else ""
    corpus = from_config.corpus_of(cfg).fingerprint()
    name, former = identity(cfg, corpus, origin), identity_v1(cfg, corpus, origin)
    study = Path(cfg.paths.outputs) / cfg.study
    own = study / f"{run_name(cfg)}-{name}"
    # Another spelling of the same config, such as attention=gqa for mha, gave the folder its name.
    found = own if _has_run(own) else _folder_of(study, name)
    if found or not former:
        return Location(RunFolder(found or own), name)
    earlier = _folder_of(study, former)
    return Location(RunFolder(own), name, RunFolder(earlier) if earlier else None)


def _folder_of(study: Path, name: str) -> Path | None:
    """The run folder of an identity, or None."""
    return next(filter(_has_run, sorted(study.glob(f"*-{name}"))), None)


def _has_run(folder: Path) -> bool:
    return (folder / journal.NAME).exists()
