"""A quick check of the user's own variants before they train, in about a second. Its result is stored by the hash of
the code, so that the same variant is checked once.

A variant that sees the next token has by far the lowest loss, so nothing in a comparison would show the mistake.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from gptx.cli import log
from gptx.config.axes import model_axes, own_axes
from gptx.config.overrides import own_dirs
from gptx.config.plain_dict import plain_dict
from gptx.errors import ConfigError, reason
from gptx.model.gpt import GPT
from gptx.proofs.causality import logits_do_not_depend_on_later_tokens, rows_of_a_batch_are_independent
from gptx.proofs.decoding import decoding_in_chunks_equals_the_full_forward, packed_documents_equal_separate_rows
from gptx.proofs.failure import PropertyFailed
from gptx.proofs.gradients import parameters_have_gradients
from gptx.proofs.small_model import CONTEXT, rows, small_model
from gptx.regular_files import read_text, refuse_link
from gptx.runs.atomic_files import write_json
from gptx.runs.damaged_files import UNEXPECTED, parse_json
from gptx.runs.hashing import digest
from gptx.runs.provenance import PACKAGE, own_code, source_hash
from gptx.terminal import shell_words

LARGEST = 2**20  # bytes of a stored outcome
BATCHES = 4  # in one of them every parameter must have a gradient: experts do not get tokens in each


def check_own_variants(cfg: DictConfig) -> tuple[str, ...]:
    """The properties that the user's own variants lack, one line each; empty unless ``runtime.unproven`` allows them.

    Raises:
        ConfigError: a property is missing, and ``runtime.unproven`` is false.
    """
    named = " ".join(f"{axis}={cfg.variant[axis]}" for axis in own_axes(cfg))
    failed = tuple(f"{named} fails the check before training: {failure}" for failure in failed_checks(cfg))
    if failed and not cfg.runtime.get("unproven"):
        folders = [word for folder in own_dirs() for word in ("--config-dir", str(folder))]
        command = shell_words(["python", "-m", "gptx.prove", *named.split(), *folders])
        raise ConfigError(
            f"{failed[0]}; correct the code ({command} shows all properties), or train it nevertheless with "
            "runtime.unproven=true, which every comparison will mention"
        )
    return failed


def failed_checks(cfg: DictConfig) -> list[str]:
    """The properties that the model of a config lacks, one line each. Only models with a variant of the user's own
    are checked: tests prove those of gptx.

    Packed documents are checked only if the run packs them (``data.document_mask``).
    """
    if not own_axes(cfg):
        return []
    try:
        model = small_model(_with_plain_ffn(cfg))  # imports the user's modules, whose hashes the key contains
    except ConfigError:
        return []  # the variants reject one another: the model of the run will say so
    file = Path(cfg.paths.data) / "checks" / f"{_key(cfg)}.json"
    if (stored := _stored(file)) is not None:
        return stored
    found = list(_check(cfg, model))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"failed": found})
    return found


def _key(cfg: DictConfig) -> str:
    """A hash of all that decides the outcome: the code of gptx and of the user's modules, and the model's config."""
    plain = plain_dict(cfg)
    parts = {axis: plain[axis] for axis in ("model", *model_axes())}
    code = {"gptx": _gptx_hash(), "torch": torch.__version__, **own_code()}
    return digest([json.dumps([parts, code, _packs(cfg)], sort_keys=True)])


@cache
def _gptx_hash() -> str:
    return source_hash(PACKAGE)


def _stored(file: Path) -> list[str] | None:
    """The outcome of an earlier check; None if there is none.

    Raises:
        ConfigError: the file or its folder is a symbolic link, or the file is no regular one.
    """
    refuse_link(file.parent)
    try:
        found = parse_json(read_text(file, LARGEST))["failed"]
    except (OSError, *UNEXPECTED):
        return None
    return [str(line) for line in found] if isinstance(found, list) else None


def _packs(cfg: DictConfig) -> bool:
    return bool(cfg.data.get("document_mask", False))


def _check(cfg: DictConfig, model: GPT) -> Iterator[str]:
    """Check in float64; if the user's code works in float32 only, in that."""
    tokens = rows(2, CONTEXT + 1)
    try:
        model(tokens[:, :-1])
    except Exception as error:  # the checks report it if it happens in float32, too
        log.debug("the check before training computes in float32: %s", reason(error))
        model = model.float()
    for check in _checks(cfg):
        try:
            check(model, tokens)
        except PropertyFailed as error:
            yield str(error)
        except Exception as error:
            yield f"a small model raised {reason(error)}"
            return


def _checks(cfg: DictConfig) -> Iterator[Callable[[GPT, Tensor], None]]:
    yield rows_of_a_batch_are_independent
    yield logits_do_not_depend_on_later_tokens
    yield lambda model, tokens: parameters_have_gradients(model, _own_parameters(cfg, model), CONTEXT + 1, BATCHES)
    yield decoding_in_chunks_equals_the_full_forward
    if _packs(cfg):
        yield packed_documents_equal_separate_rows


def _own_parameters(cfg: DictConfig, model: GPT) -> dict[str, Tensor]:
    """The parameters in modules of the user's own classes, by name, without those that are not trained, and without
    the biases of attention: one of the keys cannot change the attention weights."""
    classes = {str(cfg[axis]._target_) for axis in own_axes(cfg)}
    own = [name for name, module in model.named_modules() if _path(module) in classes]
    return {
        key: parameter
        for key, parameter in model.named_parameters()
        if parameter.requires_grad
        and any(key.startswith(f"{name}.") for name in own)
        and not (key.endswith("bias") and ".attention." in key)
    }


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _with_plain_ffn(cfg: DictConfig) -> DictConfig:
    """The config with a feed-forward network whose tokens do not compete for experts, unless it is the user's own."""
    if "ffn" in own_axes(cfg) or "capacity" not in cfg.ffn:
        return cfg
    plain = cfg.copy()
    plain.ffn.capacity = 0.0
    return plain
