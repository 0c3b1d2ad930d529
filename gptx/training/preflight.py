"""The checks before a run starts: whether a config can be trained, on which hardware, and at what cost."""

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.config import instantiate
from gptx.config.plain_dict import plain_dict
from gptx.errors import CheckpointError, ConfigError
from gptx.hardware.cpu import threads
from gptx.runs import resume_source
from gptx.runs.checkpoint_files import steps
from gptx.runs.preflight_facts import RunFacts
from gptx.runs.provenance import own_code
from gptx.runs.resume_source import ResumeSource
from gptx.tracking.mlflow_connection import check_uri
from gptx.training.model_checks import (
    CheckedModels,
    Target,
    check_strategy,
    checked_model,
    model_key,
    model_without_text,
)
from gptx.training.run_location import locate

if TYPE_CHECKING:
    from gptx.hardware.device import Machine
    from gptx.model.gpt import GPT
    from gptx.strategy.base import Strategy


@dataclass(frozen=True)
class Preflight:
    """The outcome of a preflight: the strategy that trains the run, and what the journal records of it."""

    strategy: "Strategy"
    facts: RunFacts


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
    from gptx.hardware.compiler import check_compiler

    target = _target(cfg, machine, int(os.environ.get("WORLD_SIZE", "0")))
    if cfg.compile and machine is None:
        check_compiler(target.device)
    _check_optimiser(cfg)
    source = _resume_source(cfg)
    if cfg.tracking.enabled:
        check_uri(cfg.tracking.uri)
    models, key = {} if models is None else models, model_key(plain_dict(cfg))
    if key not in models:
        models[key] = checked_model(cfg, target, make)
    checked, remarks = models[key], models[key].facts.remarks
    remarks = (*remarks, *_remarks_on_halves(cfg, checked.facts.data.val_tokens or 0))
    if source:
        _check_source_model(cfg, source, checked.model)
        remarks = (*remarks, *source.remarks)
    facts = dataclasses.replace(
        checked.facts,
        remarks=remarks,
        resume_source=source.record() if source else None,
        code=own_code(),
        threads=threads(cfg.runtime.threads, int(os.environ.get("LOCAL_WORLD_SIZE", target.processes))),
    )
    return Preflight(target.strategy, facts)


def _remarks_on_halves(cfg: DictConfig, val_tokens: int) -> tuple[str, ...]:
    """A warning if the validation set is too small for two halves. ``val_tokens``: of the validation split."""
    from gptx.data.batches import validation_starts
    from gptx.data.validation_units import has_halves

    rows = len(validation_starts(val_tokens, cfg.model.context, cfg.trainer.val_tokens))
    if has_halves(rows):
        return ()
    given = f"trainer.val_tokens={cfg.trainer.val_tokens} and {val_tokens:,} validation tokens"
    return (
        f"{given} give {rows} row of model.context={cfg.model.context}, too few for a selection and a report half: the "
        "best weights are chosen on the text whose loss is reported",
    )


def check(cfg: DictConfig) -> None:
    """Check a config as `preflight` does, but without its text. If this machine does not have the device that the
    config names, one that has it is assumed.

    Raises:
        ConfigError: the config cannot be trained.
    """
    from gptx.hardware.device import Machine, is_available

    kind, machine = cfg.device.type, None
    if kind in ("cuda", "mps") and not is_available(kind):
        machine = Machine(kind, per_node=cfg.strategy.get("nproc", 0) or 8, cores=1)
    target = _target(cfg, machine, world_size=0)
    _check_optimiser(cfg)
    check_strategy(model_without_text(cfg, target.device), target)


def _target(cfg: DictConfig, machine: "Machine | None", world_size: int) -> Target:
    """How the run is to be trained. ``world_size``: the number of processes that torchrun has started; 0: it has not.

    Raises:
        ConfigError: the machine has no such device, the strategy cannot use so many processes, or the batch cannot be
            divided among them.
    """
    from gptx.hardware.device import compute_dtype, pick
    from gptx.strategy.batch_plan import BatchPlan

    device = pick(cfg.device.type, machine)
    dtype = compute_dtype(cfg.precision.dtype, device)
    strategy: Strategy = instantiate.part(cfg.strategy)
    per_node = machine.per_node if machine else None
    processes = strategy.processes(device, world_size, per_node)
    slices = strategy.batch_slices(processes)
    return Target(strategy, device, dtype, machine, processes, BatchPlan.of(cfg, slices, processes // slices))


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
