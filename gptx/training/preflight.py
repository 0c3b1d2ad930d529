"""The checks before a run starts: whether a config can be trained, on which hardware, and at what cost."""

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.config import instantiate
from gptx.config.axes import result_axes
from gptx.config.plain_dict import PlainConfig, plain_dict
from gptx.data import from_config
from gptx.errors import CheckpointError, ConfigError, NotTokenised
from gptx.runs import resume_source
from gptx.runs.checkpoint_files import steps
from gptx.runs.preflight_facts import DataFacts, RunFacts
from gptx.runs.provenance import own_code
from gptx.runs.resume_source import ResumeSource
from gptx.tracking.mlflow_connection import check_uri
from gptx.training.run_location import locate

if TYPE_CHECKING:
    import torch

    from gptx.data.tokens import Tokens
    from gptx.hardware.device import Machine
    from gptx.model.gpt import GPT
    from gptx.strategy.base import Strategy
    from gptx.strategy.batch_plan import BatchPlan


@dataclass(frozen=True)
class Preflight:
    """The outcome of a preflight: the strategy that trains the run, and what the journal records of it."""

    strategy: "Strategy"
    facts: RunFacts


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
    return json.dumps([counted, batch, names])


def preflight(
    cfg: DictConfig, machine: "Machine | None" = None, make: bool = True, models: CheckedModels | None = None
) -> Preflight:
    """Check a config completely before any process is started. Only the token cache is written.

    Args:
        machine: the machine that the run is for; None: this one.
        make: whether to tokenise the text if there are no tokens yet, which may take hours; else `NotTokenised` is
            raised.
        models: models that are checked already; new ones are added.

    Raises:
        GptxError: the config cannot be trained.
    """
    from gptx.hardware.device import compute_dtype, pick

    device = pick(cfg.device.type, machine)
    dtype = compute_dtype(cfg.precision.dtype, device)
    strategy: Strategy = instantiate.part(cfg.strategy)
    processes, plan = _processes_and_plan(cfg, strategy, device, machine)
    _check_optimiser(cfg)
    source = _resume_source(cfg)
    if cfg.tracking.enabled:
        check_uri(cfg.tracking.uri)
    models, key = {} if models is None else models, model_key(plain_dict(cfg))
    if key not in models:
        model, tokens = _model_and_tokens(cfg, device, make)
        _check_model(cfg, strategy, model, tokens, processes, plan)
        models[key] = CheckedModel(model, _facts(cfg, model, tokens, dtype, processes, device, machine))
    checked, remarks = models[key], models[key].facts.remarks
    if source:
        _check_source_model(cfg, source, checked.model)
        remarks = (*remarks, *source.remarks)
    record = source.record() if source else None
    return Preflight(
        strategy, dataclasses.replace(checked.facts, remarks=remarks, resume_source=record, code=own_code())
    )


def check(cfg: DictConfig) -> None:
    """Check a config as `preflight` does, but without its text. If this machine does not have the device that the
    config names, one that has it is assumed.

    Raises:
        ConfigError: the config cannot be trained.
    """
    import torch

    from gptx.hardware.device import Machine, compute_dtype, is_available, pick

    kind, machine = cfg.device.type, None
    if kind in ("cuda", "mps") and not is_available(kind):
        machine = Machine(kind, per_node=cfg.strategy.get("nproc", 0) or 8, cores=1)
    device = pick(kind, machine)
    compute_dtype(cfg.precision.dtype, device)
    strategy: Strategy = instantiate.part(cfg.strategy)
    processes, plan = _processes_and_plan(cfg, strategy, device, machine)
    _check_optimiser(cfg)
    tokenizer = instantiate.part(cfg.tokenizer)
    from_config.separator_of(cfg, tokenizer)
    vocabulary = (cfg.model.vocab_size or 1) if tokenizer.needs_fit else tokenizer.n_vocab
    with torch.device("meta"):
        strategy.check(_build_on_meta(cfg, vocabulary, device), processes, plan)


def _check_model(
    cfg: DictConfig, strategy: "Strategy", model: "GPT", tokens: "Tokens", processes: int, plan: "BatchPlan"
) -> None:
    import torch

    from gptx.data.batches import check_context

    check_context(tokens, cfg.model.context)
    with torch.device("meta"):
        strategy.check(model, processes, plan)


def _facts(
    cfg: DictConfig,
    model: "GPT",
    tokens: "Tokens",
    dtype: "torch.dtype",
    processes: int,
    device: "torch.device",
    machine: "Machine | None",
) -> RunFacts:
    """What the journal records of a run that has been checked."""
    import torch

    from gptx.hardware.description import describe_hardware
    from gptx.model.build import remarks
    from gptx.model.cost import cost

    with torch.device("meta"):
        price = cost(model, dtype)
    return RunFacts(
        data=DataFacts(name=tokens.meta.corpus, **dataclasses.asdict(tokens.meta)),
        hardware=describe_hardware(device, machine),
        processes=processes,
        dtype=str(dtype).removeprefix("torch."),
        n_params=price.n_params,
        flops_per_token=price.flops_per_token,
        kv_bytes_per_token=price.kv_bytes_per_token,
        tokenizer=tokens.tokenizer.to_json(),
        remarks=(*remarks(cfg, model), *_remarks_on_documents(cfg, tokens)),
    )


def _processes_and_plan(
    cfg: DictConfig, strategy: "Strategy", device: "torch.device", machine: "Machine | None"
) -> "tuple[int, BatchPlan]":
    """The number of processes that train the run, and how a batch is divided among them.

    Raises:
        ConfigError: the strategy cannot use so many processes, or the batch cannot be divided.
    """
    from gptx.strategy.batch_plan import BatchPlan

    per_node = machine.per_node if machine else None
    processes = strategy.processes(device, int(os.environ.get("WORLD_SIZE", "0")), per_node)
    slices = strategy.batch_slices(processes)
    return processes, BatchPlan.of(cfg, slices, processes // slices)


def _resume_source(cfg: DictConfig) -> ResumeSource | None:
    """The checkpoint of another run that a new run starts from; None if there is none, or if the run has started.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """
    source = resume_source.find(cfg.resume_from)
    if source is None or (steps(locate(cfg).folder.checkpoints) and not cfg.force):
        return None
    resume_source.check(cfg, source)
    return source


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


def _check_source_model(cfg: DictConfig, source: ResumeSource, model: "GPT") -> None:
    """Check that the checkpoint of ``resume_from`` belongs to this model.

    Raises:
        ConfigError: it belongs to another model.
    """
    from gptx.training.checkpoint import check_model

    try:
        check_model(source.path, model)
    except CheckpointError as error:
        raise ConfigError(f"resume_from={cfg.resume_from}: {error}") from None


def _check_optimiser(cfg: DictConfig) -> None:
    """Check the options of schedule and optimiser by one step of a separate parameter.

    Raises:
        ConfigError: one of them raises an error.
    """
    import torch

    instantiate.part(cfg.schedule)(0, cfg.trainer.max_steps)
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    try:
        instantiate.part(cfg.optim)([weight]).step()
    except (ValueError, LookupError, TypeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in cfg.optim.items() if not key.startswith("_"))
        reason = " ".join(str(error).partition("full_key:")[0].split())  # what follows is OmegaConf's
        raise ConfigError(f"optim={cfg.variant.optim} rejects its options ({given}): {reason}") from error
