"""How an attempt at a run begins: what it is, or that it goes on, is written down, with what it is done on."""

import os
import shlex
import sys
import uuid
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gptx.config.identity import SCHEME, revisions, run_name
from gptx.config.plain import plain_dict
from gptx.runs.checkpoint_files import clear, meta, number, steps
from gptx.runs.folder import RunFolder, write_json
from gptx.runs.journal import Journal
from gptx.runs.provenance import changed, git, versions
from gptx.runs.resume_source import checkpoint_of


def begin(cfg: DictConfig, folder: RunFolder, name: str, facts: dict[str, Any], replaced: str | None) -> None:
    """Of a command that holds the run's lock. ``facts`` are what preflight has found."""
    facts = dict(facts)
    with Journal(folder.path) as book:
        _describe(cfg, folder, facts.pop("tokenizer"))
        remarks = facts.pop("remarks")
        if folder.start_record():
            (folder.path / "result.json").unlink(missing_ok=True)  # of the attempt before; the journal keeps it
            _warn_of_other_hardware(folder, facts, book)
            _warn_of_other_code(folder, book)
            resume(folder, book, facts)
            return
        book.write(
            "start",
            uid=uuid.uuid4().hex,
            identity=name,
            identity_scheme=SCHEME,
            revisions=revisions(cfg),
            name=run_name(cfg),
            study=cfg.study,
            variant=plain_dict(cfg)["variant"],
            seed=cfg.seed,
            config={key: value for key, value in plain_dict(cfg).items() if key != "variant"},
            command=shlex.join(["python", "-m", "gptx.run", *(w for w in sys.argv[1:] if not w.startswith("force="))]),
            git=git(),
            replaces=replaced,
            **facts,
            **_here(),
        )
        for remark in remarks:
            warn(book, remark)
        if origin := facts.get("origin"):
            _warn_of_other_torch(checkpoint_of(cfg.resume_from, origin["step"]), book)


def resume(folder: RunFolder, book: Journal, facts: dict[str, Any]) -> None:
    """Choose the checkpoint that all processes go on from."""
    clear(folder.checkpoints, lambda text: warn(book, text))
    saved = steps(folder.checkpoints)
    start = folder.start_record() or {}
    step = number(saved[-1]) if saved else int((start.get("origin") or {}).get("step", 0))
    if saved:
        _warn_of_other_torch(saved[-1], book)
    book.write("resume", step=step, hardware=facts["hardware"], processes=facts["processes"], **_here())


def warn(book: Journal, text: str) -> None:
    """On the terminal and in the journal."""
    book.write("event", step=max(0, book.last_step), level="warning", text=text)
    print(f"gptx: {text}", file=sys.stderr)


def _here() -> dict[str, Any]:
    return {"versions": versions(), "pid": os.getpid(), "host": os.uname().nodename}


def _describe(cfg: DictConfig, folder: RunFolder, tokenizer: dict[str, Any]) -> None:
    """config.yaml and tokenizer.json: all that a run needs beside its weights. Written once."""
    if not (folder.path / "config.yaml").exists():
        write_json(folder.path / "tokenizer.json", tokenizer)
        OmegaConf.save(cfg, folder.path / ".config.part", resolve=True)
        (folder.path / ".config.part").rename(folder.path / "config.yaml")


def _warn_of_other_hardware(folder: RunFolder, facts: dict[str, Any], book: Journal) -> None:
    start = folder.start_record() or {}
    before, now = ({**f["hardware"], "dtype": f["dtype"], "processes": f.get("processes")} for f in (start, facts))
    watched = ("dtype", "name", "processes")
    other = [f"{key} {before.get(key)} -> {now[key]}" for key in watched if before.get(key) != now[key]]
    if other:
        warn(book, f"goes on otherwise than it began ({', '.join(other)}): the result is not the same bit for bit")


def other_code(folder: RunFolder) -> list[str]:
    """The user's own modules that do not say any more what they said when the run began."""
    return changed((folder.start_record() or {}).get("code", {}))


def _warn_of_other_code(folder: RunFolder, book: Journal) -> None:
    if names := other_code(folder):
        warn(book, f"goes on with other code than it began with ({', '.join(names)}): force=true begins afresh")


def _warn_of_other_torch(path: Any, book: Journal) -> None:
    import torch

    before, now = meta(path).get("torch"), torch.__version__
    if before != now:
        warn(book, f"{path.name} was written by torch {before}, this is {now}: not the same bit for bit")
