"""What a config computes, in a name: the same command finds its run again. Without torch."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from gptx.config.compose import flat, plain_dict

# What does not change the result. Identity is the hash of everything else, so nobody keeps a longer list.
NOT_RESULT = ("tracking", "runtime", "sweep", "paths", "study", "about", "force", "dry_run", "match", "variant")
# Nor does where a text or another run lies (its hash and its identity stand for it), how many do the work (but see
# `result_keys`), or what saves memory: a run that has too little may go on with it.
NOT_RESULT_KEYS = (
    "data.path",
    "tokenizer.path",
    "resume_from",
    "strategy.nproc",
    "strategy.timeout",
    "strategy.restarts",
    "strategy.reshard",
    "strategy.prefetch",
    "strategy.offload",
    "activation_checkpointing",
)
AXES = ("attention", "pos", "window", "strategy")  # the ones a run's name shows


def identity(cfg: DictConfig, corpus: str, origin: str = "") -> str:
    """Ten hex digits that name what a config computes.

    Args:
        corpus: the corpus's fingerprint; it stands for ``data.path``: where a text lies does not change what it says.
        origin: what stands for ``resume_from`` likewise: the identity of the run it begins from, and the step.
    """
    apart = {"corpus": corpus, **({"origin": origin} if origin else {})}
    text = json.dumps({**result_keys(plain_dict(cfg)), **apart}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def result_keys(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plain config decides the result, as {dotted key: value}.

    With dropout the number of processes is part of it: each draws masks of its own.
    """
    leaves = {key: value for key, value in flat(plain) if not isinstance(value, dict)}
    apart = set(NOT_RESULT_KEYS) - ({"strategy.nproc"} if leaves.get("model.dropout") else set())
    return {k: v for k, v in leaves.items() if k.split(".")[0] not in NOT_RESULT and k not in apart}


def run_name(cfg: DictConfig) -> str:
    """``gqa·rope·full·ddp·s0``."""
    return "·".join([*(cfg.variant[axis] for axis in AXES), f"s{cfg.seed}"])
