"""The identity of a run: a hash of everything in its config that decides the result. Does not import torch.

The same command has the same identity and so finds its run again. Scheme 2, in use since the start record has the key
``identity_scheme``:

- A built-in class counts by the id and the revision declared beside it (`gptx.config.class_ids`), not by where it is.
  A user's own class counts by its path.
- Names of options and presets do not count, only keys: ``attention=gqa attention.n_kv_head=4`` is the same run as
  ``attention=mha`` where ``model.n_head=4``.
- A key that was added later counts only where its value differs from the one that reproduces earlier behaviour.
- `CORE_REVISION` counts: it is raised when the model's core code, the initialisation, the trainer or the order of the
  batches computes something else than before.

`gptx.config.identity_v1` has scheme 1, for runs made before.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from gptx.config.axes import run_name_axes
from gptx.config.class_ids import Declaration, declaration
from gptx.config.plain_dict import PlainConfig, flat, group_of, plain_dict
from gptx.errors import ConfigError

SCHEME = 2
CORE_REVISION = 1
CORE = "core"  # its key in `revisions`

# Keys outside the groups of an option's class that were added after runs were made: {dotted key: reproducing value}.
ADDED_KEYS: dict[str, Any] = {}

# Groups that do not change the result.
NOT_RESULT = ("tracking", "runtime", "sweep", "paths", "study", "about", "force", "dry_run", "match", "variant")
# Keys that do not change the result: paths (the corpus's fingerprint and the source run's identity count instead), the
# number of processes (except with dropout) and how they communicate, and what trades memory for time.
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

# Keys that tell Hydra how to build a class, not what the class computes.
HYDRA_KEYS = ("_partial_", "_recursive_", "_convert_")


def identity(cfg: DictConfig | PlainConfig, corpus: str, origin: str = "") -> str:
    """Ten hex digits that name what a config computes.

    Args:
        corpus: fingerprint of the corpus; hashed instead of ``data.path``.
        origin: identity and step of the checkpoint that ``resume_from`` names (``IDENTITY@STEP``); it counts instead
            of that path. Empty without ``resume_from``.
    """
    counted = {**result_keys(plain_dict(cfg)), "scheme": SCHEME, "corpus": corpus}
    return digest(counted | ({"origin": origin} if origin else {}))


def digest(counted: Mapping[str, Any]) -> str:
    """Ten hex digits of a hash over keys and values."""
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:10]


def result_keys(plain: Mapping[str, Any], made_with: Mapping[str, int] | None = None) -> PlainConfig:
    """The part of a plain config that decides the result, as {dotted key: value}; targets as ``ID r1`` or a path.

    Args:
        made_with: the `revisions` that a run was made with; an id that is missing had revision 1. A class that gptx
            does not have any more counts by its path. None: today's revisions.
    """
    declared = declaration if made_with is None else _declaration_if_present
    found: dict[str, Any] = {CORE: CORE_REVISION if made_with is None else made_with.get(CORE, 1)}
    for key, value in result_leaves(plain).items():
        group, _, name = key.rpartition(".")
        built_in = declared(str(group_of(plain, group).get("_target_") or ""))
        if built_in and name in HYDRA_KEYS:
            continue
        if built_in and name == "_target_":
            revision = built_in.revision if made_with is None else made_with.get(built_in.id, 1)
            value = f"{built_in.id} r{revision}"
        added = built_in.reproducing(group_of(plain, group)) if built_in else {}
        if (name in added and added[name] == value) or (key in ADDED_KEYS and ADDED_KEYS[key] == value):
            continue
        found[key] = value
    return found


def _declaration_if_present(target: str) -> Declaration | None:
    try:
        return declaration(target)
    except ConfigError:
        return None


def result_leaves(plain: Mapping[str, Any]) -> PlainConfig:
    """The keys of a plain config that decide the result, with their values unchanged.

    With dropout the number of processes decides too, because each process draws its own masks.
    """
    leaves = {key: value for key, value in flat(plain) if not isinstance(value, dict)}
    ignored = set(NOT_RESULT_KEYS) - ({"strategy.nproc"} if leaves.get("model.dropout") else set())
    return {k: v for k, v in leaves.items() if k.split(".")[0] not in NOT_RESULT and k not in ignored}


def revisions(cfg: DictConfig | PlainConfig) -> dict[str, int]:
    """The revisions of the core and of every built-in class in a config, by id; stored in a run's start record."""
    targets = [value for key, value in flat(plain_dict(cfg)) if key.endswith("._target_")]
    built_in = [found for target in targets if (found := declaration(str(target)))]
    return {CORE: CORE_REVISION, **{found.id: found.revision for found in built_in}}


def run_name(cfg: DictConfig | PlainConfig) -> str:
    """The readable part of a run's name: ``gqa·rope·full·ddp·s0``."""
    return "·".join([*(cfg["variant"][axis] for axis in run_name_axes()), f"s{cfg['seed']}"])
