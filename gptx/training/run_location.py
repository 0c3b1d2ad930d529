"""Find or create the folder of a config's run. Does not import torch, so that a finished run is found quickly."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gptx.config.identity import identity, run_name
from gptx.config.identity_v1 import identity_v1
from gptx.config.plain_dict import PlainConfig, plain_dict
from gptx.data import from_config
from gptx.errors import ConfigError, RunFailed
from gptx.regular_files import open_regular, refuse_link
from gptx.runs import journal, resume_source
from gptx.runs.atomic_files import flocked
from gptx.runs.folder import RunFolder

CREATE_LOCK = ".create.lock"  # in the folder of a study, held while the folder of a run is created


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
        """The folder with the run's result or journal, if there is a run; else the folder that it may get."""
        return self.former or self.folder

    def check(self, force: bool) -> None:
        """Reject the resume of a run of identity scheme 1, and write its result.json if a kill prevented it.

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

    def create_folder(self) -> "Location":
        """The location with the folder of the run. The folder is created with its lock file unless it exists.

        Another command may be creating a folder of another name for another spelling of the same config. Therefore the
        processes look for the folder and create it one after the other.

        Raises:
            RunFailed: the folder cannot be written.
        """
        own = self.folder.path
        if _holds(own, journal.NAME) or _holds(own, journal.LOCK):
            return self
        try:
            with _creation_lock(own.parent):
                found = _find(own.parent, self.identity, journal.NAME, journal.LOCK) or own
                found.mkdir(exist_ok=True)
                open_regular(found / journal.LOCK, "a").close()
        except OSError as error:
            raise RunFailed(
                f"could not write {error.filename or own}: {error.strerror or error}; change paths.outputs"
            ) from error
        return replace(self, folder=RunFolder(found))


@dataclass
class Known:
    """What `locate` has found for other configs: hashes of texts, and the folders of studies, which it lists once.

    Attributes:
        corpora: fingerprints by the config's data group.
        folders: by study, the folders of its runs by identity.
    """

    corpora: dict[str, str] = field(default_factory=dict)
    folders: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)


def locate(cfg: DictConfig | PlainConfig, known: Known | None = None) -> Location:
    """Find the run of a config under ``paths.outputs``.

    Args:
        known: found for other configs a moment ago; new facts are added.

    Raises:
        ConfigError: ``study`` is not the name of a folder, ``resume_from`` names no checkpoint, or the run's folder is
            a symbolic link.
    """
    config, known = plain_dict(cfg), known or Known()
    name = config["study"]
    if not name or name.startswith(".") or "/" in name:
        raise ConfigError(f"study={name}: expected the name of a folder, without '/' and not starting with '.'")
    if not name.isprintable():
        raise ConfigError(f"study={name}: expected the name of a folder, without control characters")
    source = resume_source.find(config["resume_from"])
    origin = f"{source.identity}@{source.step}" if source else ""
    corpus = _fingerprint(config, known)
    current, former = identity(config, corpus, origin), identity_v1(config, corpus, origin)
    study = Path(config["paths"]["outputs"]) / name
    own = study / f"{run_name(config)}-{current}"
    if study not in known.folders:
        known.folders[study] = _by_identity(study)
    # Another spelling of the same config, such as attention=gqa for mha, may have given the folder another name.
    found = (
        own if _holds(own, journal.NAME) else _first(known.folders[study].get(current, []), journal.NAME, journal.LOCK)
    )
    folder = found or own
    refuse_link(folder)
    if not former or _holds(folder, journal.NAME):
        return Location(RunFolder(folder), current)
    earlier = _first(known.folders[study].get(former, []), journal.NAME)
    return Location(RunFolder(folder), current, RunFolder(earlier) if earlier else None)


def _fingerprint(config: PlainConfig, known: Known) -> str:
    key = json.dumps(config["data"])
    if key not in known.corpora:
        known.corpora[key] = from_config.corpus_of(OmegaConf.create({"data": config["data"]})).fingerprint()
    return known.corpora[key]


def _by_identity(study: Path) -> dict[str, list[Path]]:
    """The folders of a study, by the identity at the end of their names."""
    found: dict[str, list[Path]] = {}
    for folder in sorted(study.glob("*-*")):
        found.setdefault(folder.name.rpartition("-")[2], []).append(folder)
    return found


def _find(study: Path, name: str, *files: str) -> Path | None:
    """The folder of the run with an identity, or None; see `_first`."""
    return _first(sorted(study.glob(f"*-{name}")), *files)


def _first(folders: Sequence[Path], *files: str) -> Path | None:
    """The first of several folders that holds one of these files; a folder with the first file takes precedence."""
    return next((folder for file in files for folder in folders if _holds(folder, file)), None)


def _holds(folder: Path, file: str) -> bool:
    """Whether a file is in a folder. A listing of the folder shows files that another machine has just created, but a
    network file system may answer the question for one name from an older cache."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return file in os.listdir(folder)
    return False


@contextlib.contextmanager
def _creation_lock(study: Path) -> Iterator[None]:
    """Allow one process at a time to create a folder in a study."""
    study.mkdir(parents=True, exist_ok=True)
    lock = study / CREATE_LOCK
    try:  # whoever may write in the study may hold the lock, also if the study's permissions have changed
        with open_regular(lock, "a") as file:
            os.fchmod(file.fileno(), study.stat().st_mode & 0o666)
    except PermissionError:  # another user has created it
        if not lock.exists():
            raise
    with flocked(lock):
        yield
