"""Facts about a run before it starts: hardware, data, cost, code. Preflight finds them, the journal records them."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The machine of a run. ``name``: of the GPU, or of the CPU. Empty and 0: not known."""

    device: str = ""
    name: str = ""
    cpu: str = ""
    cores: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The tokenized corpus of a run: hashes of text and tokenizer, sizes of the two splits in tokens.

    ``source``: hash of the source of a corpus or tokenizer of the user's own; ``content_hash``: of the token ids.
    """

    name: str = ""
    corpus: str = ""
    corpus_hash: str = ""
    val_fraction: float | None = None
    max_tokens: int | None = None
    tokenizer: str = ""
    tokenizer_spec: str = ""
    format: int | None = None
    train_tokens: int | None = None
    val_tokens: int | None = None
    dtype: str = ""
    tokenizer_hash: str = ""
    source: str = ""
    content_hash: str = ""


@dataclass(frozen=True, kw_only=True)
class GitState:
    """The commit of gptx's checkout ("" without a checkout), and whether tracked files had changes."""

    commit: str = ""
    dirty: bool = False


@dataclass(frozen=True, kw_only=True)
class ResumeSourceRecord:
    """The checkpoint of another run that a run started from (``resume_from``)."""

    identity: str = ""
    uid: str = ""
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """The conditions on which a run's speed depends: hardware, processes, threads of each, dtype, cost of the model.

    ``threads``: 0 if not known.
    """

    hardware: Hardware = field(default_factory=Hardware)
    processes: int = 1
    threads: int = 0
    dtype: str = ""
    n_params: float = math.nan
    flops_per_token: float = math.nan
    kv_bytes_per_token: float = math.nan


@dataclass(frozen=True, kw_only=True)
class RunFacts(RunSetup):
    """The facts that preflight finds before a run starts.

    Attributes:
        tokenizer: the content of tokenizer.json.
        remarks: warnings for the journal.
        resume_source: the checkpoint of another run to start from; None: the weights are new.
        code: hashes of the user's own modules, by name.
        failed_checks: properties that the user's own variants lack, one line each.
    """

    data: DataFacts
    tokenizer: dict[str, Any]
    remarks: tuple[str, ...] = ()
    resume_source: ResumeSourceRecord | None = None
    code: dict[str, str] = field(default_factory=dict)
    failed_checks: tuple[str, ...] = ()
