"""What is known of a run before anything is started: where it lies, what it costs, and why it cannot be."""

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.config import instantiate
from gptx.data import from_config
from gptx.errors import CheckpointError, ConfigError
from gptx.runs import resume_source
from gptx.runs.checkpoint_files import steps
from gptx.runs.facts import DataFacts, RunFacts
from gptx.runs.provenance import own_code
from gptx.tracking.store import check_uri
from gptx.training.location import locate

if TYPE_CHECKING:
    from gptx.data.tokens import Tokens
    from gptx.hardware.device import Machine
    from gptx.model.gpt import GPT
    from gptx.strategy.base import Strategy


@dataclass(frozen=True)
class Preflight:
    """A run that can start: the strategy that will train it, and what the journal records of it."""

    strategy: "Strategy"
    facts: RunFacts


def preflight(cfg: DictConfig, there: "Machine | None" = None, make: bool = True) -> Preflight:
    """Let every part that knows refuse, before any process is started.

    Args:
        there: the machine that the run is for, where that is not this one.
        make: whether tokens that are not there are made, which may take hours; else `NotTokenised` is raised.

    Raises:
        GptxError: the config cannot be trained.
    """
    import torch

    from gptx.data.batches import check_context
    from gptx.hardware.description import describe_hardware
    from gptx.hardware.device import compute_dtype, pick
    from gptx.model.build import build, remarks
    from gptx.model.cost import cost
    from gptx.strategy.batch_plan import BatchPlan

    device = pick(cfg.device.type, there)
    dtype = compute_dtype(cfg.precision.dtype, device)
    strategy = instantiate.part(cfg.strategy)
    processes = strategy.processes(device, int(os.environ.get("WORLD_SIZE", "0")), there and there.per_node)
    slices = strategy.batch_slices(processes)
    plan = BatchPlan.of(cfg, slices, processes // slices)
    _check_optimiser(cfg)
    location = locate(cfg)
    location.check(cfg.force)
    begun = resume_source.find(cfg.resume_from)
    if begun and (cfg.force or not steps(location.folder.checkpoints)):
        resume_source.check(cfg, begun)
    else:
        begun = None
    if cfg.tracking.enabled:
        check_uri(cfg.tracking.uri)
    tokenizer = instantiate.part(cfg.tokenizer)
    from_config.separator_of(cfg, tokenizer)
    with torch.device("meta"):
        build(cfg, cfg.model.vocab_size or (1 if tokenizer.needs_fit else tokenizer.n_vocab), device)
    # The token cache is the one thing made before all is known: how long a text is in tokens only its tokens tell.
    tokens = from_config.tokens_of(cfg, int(os.environ.get("RANK", "0")) > 0, make)
    check_context(tokens, cfg.model.context)
    with torch.device("meta"):
        model = build(cfg, tokens.tokenizer.n_vocab, device)
        strategy.check(model, processes, plan)
        price = cost(model, dtype)
    if begun:
        _check_model(cfg, begun, model)
    facts = RunFacts(
        data=DataFacts(name=tokens.meta.corpus, **dataclasses.asdict(tokens.meta)),
        hardware=describe_hardware(device, there),
        processes=processes,
        dtype=str(dtype).removeprefix("torch."),
        n_params=price.n_params,
        flops_per_token=price.flops_per_token,
        kv_bytes_per_token=price.kv_bytes_per_token,
        tokenizer=tokens.tokenizer.to_json(),
        remarks=(*remarks(cfg, model), *_of_documents(cfg, tokens), *(begun.remarks if begun else ())),
        resume_source=begun.record() if begun else None,
        code=own_code(),
    )
    return Preflight(strategy, facts)


def _of_documents(cfg: DictConfig, tokens: "Tokens") -> list[str]:
    separator = from_config.separator_of(cfg, tokens.tokenizer)
    if separator is None or (tokens.train == separator).any():
        return []
    return [f"data={cfg.variant.data} is one document: data.document_mask=true hides nothing"]


def _check_model(cfg: DictConfig, begun: resume_source.ResumeSource, model: "GPT") -> None:
    from gptx.training.checkpoint import check_model

    try:
        check_model(begun.path, model)
    except CheckpointError as error:
        raise ConfigError(f"resume_from={cfg.resume_from}: {error}") from None


def _check_optimiser(cfg: DictConfig) -> None:
    """Let schedule and optimiser refuse what they were given, in a step of a parameter that is not the model's."""
    import torch

    instantiate.part(cfg.schedule)(0, cfg.trainer.max_steps)

    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    try:
        instantiate.part(cfg.optim)([weight]).step()
    except ConfigError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in cfg.optim.items() if not key.startswith("_"))
        reason = " ".join(str(error).split())
        raise ConfigError(f"optim={cfg.variant.optim} refuses what it was given ({given}): {reason}") from error
