"""Check a model and its tokens before a run starts, once for all runs that have the same."""

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.config import instantiate
from gptx.config.axes import result_axes
from gptx.config.plain_dict import PlainConfig
from gptx.data import from_config
from gptx.errors import NotTokenised
from gptx.runs.preflight_facts import DataFacts, RunFacts

if TYPE_CHECKING:
    import torch

    from gptx.data.tokens import Tokens
    from gptx.hardware.device import Machine
    from gptx.model.gpt import GPT
    from gptx.strategy.base import Strategy
    from gptx.strategy.batch_plan import BatchPlan


@dataclass(frozen=True)
class CheckedModel:
    """A model on the meta device that its strategy can train, and the facts about it, the tokens and the hardware."""

    model: "GPT"
    facts: RunFacts


CheckedModels = dict[str, CheckedModel]  # by `model_key`

# What the checks of a model, of its tokens and of its hardware do not depend on.
_NOT_OF_MODEL = {
    *("seed", "data_seed", "optim", "schedule", "resume_from", "study", "about", "force", "dry_run", "sweep"),
    *("runtime", "tracking", "match", "trainer", "variant"),
}


def model_key(plain: PlainConfig) -> str:
    """Equal for configs of which one is checked by `preflight` and the other ones only in optimiser, schedule and
    ``resume_from``."""
    counted = {key: value for key, value in plain.items() if key not in _NOT_OF_MODEL}
    batch = [plain["trainer"]["batch_size"], plain["trainer"]["micro_batch"]]
    names = [plain["variant"][axis] for axis in result_axes() if axis not in _NOT_OF_MODEL]
    return json.dumps([counted, batch, names, plain["runtime"].get("unproven")])


@dataclass(frozen=True)
class Target:
    """How a model is to be trained.

    Attributes:
        device, dtype: of the computation.
        machine: the machine of the run; None: this one.
        processes: their number.
        plan: how a batch is divided among them.
    """

    strategy: "Strategy"
    device: "torch.device"
    dtype: "torch.dtype"
    machine: "Machine | None"
    processes: int
    plan: "BatchPlan"


def checked_model(cfg: DictConfig, target: Target, make: bool) -> CheckedModel:
    """Build the model on the meta device, prepare the tokens, and check that they can be trained.

    Args:
        make: whether to tokenise the text if there are no tokens yet; else `NotTokenised` is raised.

    Raises:
        GptxError: the model or its text cannot be trained.
    """
    from gptx.data.batches import check_context
    from gptx.proofs.before_training import check_own_variants

    failed = check_own_variants(cfg)
    model, tokens = _model_and_tokens(cfg, target.device, make)
    check_context(tokens, cfg.model.context)
    check_strategy(model, target)
    facts = _facts(cfg, model, tokens, target)
    return CheckedModel(model, replace(facts, remarks=(*failed, *facts.remarks), failed_checks=failed))


def check_strategy(model: "GPT", target: Target) -> None:
    """Check that the strategy can split a model and a batch.

    Raises:
        ConfigError: it cannot.
    """
    import torch

    with torch.device("meta"):
        target.strategy.check(model, target.processes, target.plan)


def model_without_text(cfg: DictConfig, device: "torch.device") -> "GPT":
    """Build the model on the meta device. If its vocabulary is known only from the text, it gets that of
    ``model.vocab_size``, or one token."""
    tokenizer = instantiate.part(cfg.tokenizer)
    from_config.separator_of(cfg, tokenizer)
    return _build_on_meta(cfg, (cfg.model.vocab_size or 1) if tokenizer.needs_fit else tokenizer.n_vocab, device)


def _facts(
    cfg: DictConfig,
    model: "GPT",
    tokens: "Tokens",
    target: Target,
) -> RunFacts:
    """What the journal records of a run that has been checked."""
    import torch

    from gptx.hardware.description import describe_hardware
    from gptx.model.build import remarks
    from gptx.model.cost import cost

    with torch.device("meta"):
        price = cost(model, target.dtype)
    return RunFacts(
        data=DataFacts(name=tokens.meta.corpus, content_hash=tokens.content_hash, **asdict(tokens.meta)),
        hardware=describe_hardware(target.device, target.machine),
        processes=target.processes,
        dtype=str(target.dtype).removeprefix("torch."),
        n_params=price.n_params,
        flops_per_token=price.flops_per_token,
        kv_bytes_per_token=price.kv_bytes_per_token,
        tokenizer=tokens.tokenizer.to_json(),
        remarks=(*remarks(cfg, model), *_remarks_on_documents(cfg, tokens)),
    )


def _model_and_tokens(cfg: DictConfig, device: "torch.device", make: bool) -> "tuple[GPT, Tokens]":
    """Build the model on the meta device and prepare the tokens. The model is built first, to find mistakes
    before the slow tokenising.

    The vocabulary of a tokenizer that is fitted is known only from the tokens. If they are not cached, the model is
    built once more with the vocabulary of ``model.vocab_size``, or with one token, to find mistakes before tokenising.
    """
    tokenizer = instantiate.part(cfg.tokenizer)
    from_config.separator_of(cfg, tokenizer)
    quiet = int(os.environ.get("RANK", "0")) > 0
    if not tokenizer.needs_fit:
        return _build_on_meta(cfg, tokenizer.n_vocab, device), from_config.tokens_of(cfg, quiet, make)
    try:
        tokens = from_config.tokens_of(cfg, quiet, create=False)
    except NotTokenised:
        _build_on_meta(cfg, cfg.model.vocab_size or 1, device)
        tokens = from_config.tokens_of(cfg, quiet, make)
    return _build_on_meta(cfg, tokens.tokenizer.n_vocab, device), tokens


def _build_on_meta(cfg: DictConfig, vocab_size: int, device: "torch.device") -> "GPT":
    import torch

    from gptx.model.build import build

    with torch.device("meta"):
        return build(cfg, vocab_size, device)


def _remarks_on_documents(cfg: DictConfig, tokens: "Tokens") -> list[str]:
    separator = from_config.separator_of(cfg, tokens.tokenizer)
    if separator is None or (tokens.train == separator).any():
        return []
    return [f"data={cfg.variant.data} is one document: data.document_mask=true has no effect"]
