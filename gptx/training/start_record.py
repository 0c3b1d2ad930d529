"""Record the start or the resume of a run, with its hardware and versions, and warn of changes since the start."""

import os
import uuid
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gptx.cli import log
from gptx.config.identity import SCHEME, revisions, run_name
from gptx.config.plain_dict import plain_dict
from gptx.config.trust import own_modules
from gptx.runs.atomic_files import write_json
from gptx.runs.checkpoint_files import clear, meta, step_of, steps
from gptx.runs.code_copy import save_copy
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.preflight_facts import RunFacts
from gptx.runs.provenance import changed, command_line, git, versions
from gptx.runs.records import VALIDATION, EventRecord, ResumeRecord, StartRecord
from gptx.runs.resume_source import checkpoint_of


def begin(cfg: DictConfig, folder: RunFolder, name: str, facts: RunFacts, replaced: str | None) -> None:
    """Record the start of a run, or its resume if the folder holds one. The caller holds the run's lock.

    Args:
        name: the run's identity.
        facts: the facts from the preflight.
        replaced: the uid of the run whose files force=true has moved out of this folder.
    """
    with Journal(folder.path) as journal:
        too_large = _write_config(cfg, folder, facts)
        start = folder.start_record()
        if start is not None:
            (folder.path / "result.json").unlink(missing_ok=True)  # of an earlier end, which the journal also holds
            _warn_of_other_hardware(start, facts, journal)
            _warn_of_other_code(folder, journal)
            resume(folder, journal, facts)
            return
        journal.write(_start_record(cfg, name, facts, replaced))
        for remark in filter(None, (*facts.remarks, too_large)):
            warn(journal, remark)
        if facts.resume_source:
            _warn_of_other_torch(checkpoint_of(cfg.resume_from, facts.resume_source.step), journal)


def _start_record(cfg: DictConfig, name: str, facts: RunFacts, replaced: str | None) -> StartRecord:
    config = plain_dict(cfg)
    return StartRecord(
        uid=uuid.uuid4().hex,
        identity=name,
        identity_scheme=SCHEME,
        revisions=revisions(cfg),
        validation=VALIDATION,
        name=run_name(cfg),
        study=cfg.study,
        variant=config["variant"],
        seed=cfg.seed,
        config={key: value for key, value in config.items() if key != "variant"},
        command=command_line(),
        git=git(),
        replaces=replaced,
        data=facts.data,
        hardware=facts.hardware,
        processes=facts.processes,
        threads=facts.threads,
        dtype=facts.dtype,
        n_params=facts.n_params,
        flops_per_token=facts.flops_per_token,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        resume_source=facts.resume_source,
        code=facts.code,
        failed_checks=facts.failed_checks,
        versions=versions(),
        pid=os.getpid(),
        host=os.uname().nodename,
    )


def resume(folder: RunFolder, journal: Journal, facts: RunFacts) -> None:
    """Record a resume in the journal, with the step of the checkpoint from which all processes continue."""
    clear(folder.checkpoints, lambda text: warn(journal, text))
    saved = steps(folder.checkpoints)
    start = folder.start_record()
    step = start.resume_source.step if start and start.resume_source else 0
    if saved:
        step = step_of(saved[-1])
        _warn_of_other_torch(saved[-1], journal)
    journal.write(
        ResumeRecord(
            step=step,
            hardware=facts.hardware,
            processes=facts.processes,
            threads=facts.threads,
            versions=versions(),
            pid=os.getpid(),
            host=os.uname().nodename,
        )
    )


def warn(journal: Journal, text: str) -> None:
    """Print a warning and record it in the journal."""
    journal.write(EventRecord(step=max(0, journal.last_step), level="warning", text=text))
    log.warning("%s", text)


def _write_config(cfg: DictConfig, folder: RunFolder, facts: RunFacts) -> str:
    """Write what a run needs besides its weights, unless it exists: own modules, tokenizer.json and config.yaml.

    Returns:
        A warning if the modules are too large to be copied, else "".
    """
    if (folder.path / "config.yaml").exists():
        return ""
    too_large = save_copy(folder.path, own_modules(plain_dict(cfg)))
    write_json(folder.path / "tokenizer.json", facts.tokenizer)
    OmegaConf.save(cfg, folder.path / ".config.part", resolve=True)
    (folder.path / ".config.part").rename(folder.path / "config.yaml")
    return too_large


def _warn_of_other_hardware(start: StartRecord, facts: RunFacts, journal: Journal) -> None:
    pairs = {
        "dtype": (start.dtype, facts.dtype),
        "name": (start.hardware.name, facts.hardware.name),
        "processes": (start.processes, facts.processes),
    }
    other = [f"{key} {before} -> {here}" for key, (before, here) in pairs.items() if before != here]
    if other:
        warn(journal, f"resumed on different hardware ({', '.join(other)}): the result is not bitwise reproducible")


def other_code(folder: RunFolder) -> list[str]:
    """Names of the user's own modules whose source has changed since the run started."""
    start = folder.start_record()
    return changed(start.code) if start else []


def _warn_of_other_code(folder: RunFolder, journal: Journal) -> None:
    if names := other_code(folder):
        warn(
            journal,
            f"source hash changed since the run started ({', '.join(names)}): force=true starts it again from step 0",
        )


def _warn_of_other_torch(path: Path, journal: Journal) -> None:
    import torch

    before, here = meta(path).torch, torch.__version__
    if before != here:
        warn(journal, f"{path.name} was written by torch {before}, this is {here}: not bitwise reproducible")
