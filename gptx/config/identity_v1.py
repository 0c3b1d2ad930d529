"""Identity scheme 1, frozen: how runs were named before the start record had the key ``identity_scheme``.

The same command looks for a run made under this scheme too. Nothing here is changed any more, except for
keys and places that are new: if a class moves, `FORMER_TARGETS` of `gptx.config.class_ids` gets an entry; if a key is
added, `ADDED_KEYS` of its class or of `gptx.config.identity`, or `NOT_RESULT_KEYS` here if it does not count.
"""

from typing import Any

from omegaconf import DictConfig

from gptx.config.class_ids import FORMER_TARGETS, declaration
from gptx.config.identity import ADDED_KEYS, digest, revisions
from gptx.config.plain_dict import PlainConfig, flat, group_of, plain_dict

# The groups and keys that did not count.
NOT_RESULT = ("tracking", "runtime", "sweep", "paths", "study", "about", "force", "dry_run", "match", "variant")
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


def identity_v1(cfg: DictConfig | PlainConfig, corpus: str, origin: str = "") -> str | None:
    """The identity that scheme 1 gave to a config; None where the code of that time computed something else.

    Args: the same as those of `gptx.config.identity.identity`.
    """
    if any(revision > 1 for revision in revisions(cfg).values()):
        return None
    plain = plain_dict(cfg)
    counted: dict[str, Any] = {}
    for key, value in _result_leaves(plain).items():
        group, _, name = key.rpartition(".")
        keys = group_of(plain, group)
        built_in = declaration(str(keys.get("_target_") or ""))
        added = {
            **ADDED_KEYS,
            **{f"{group}.{added}": v for added, v in (built_in.reproducing(keys) if built_in else {}).items()},
        }
        if key not in added:
            counted[key] = _former(value) if name == "_target_" else value
        elif added[key] != value:
            return None  # no run of that time had the key
    return digest({**counted, "corpus": corpus, **({"origin": origin} if origin else {})})


def _result_leaves(plain: PlainConfig) -> PlainConfig:
    """The keys that were hashed, and their values."""
    leaves = {key: value for key, value in flat(plain) if not isinstance(value, dict)}
    ignored = set(NOT_RESULT_KEYS) - ({"strategy.nproc"} if leaves.get("model.dropout") else set())
    return {k: v for k, v in leaves.items() if k.split(".")[0] not in NOT_RESULT and k not in ignored}


def _former(target: str) -> str:
    """The target that the class of today's ``target`` had at the time of scheme 1."""
    return next((former for former, today in FORMER_TARGETS.items() if today == target), target)
