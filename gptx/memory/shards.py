"""What of a run's memory each of its processes has: known from the strategy's arithmetic, before one of them stands."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig
from torch import nn

from gptx.attention.base import Attention
from gptx.ffn.base import FFN
from gptx.model.gpt import GPT
from gptx.strategy.base import Strategy
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.cut import show_own_heads


@dataclass(frozen=True)
class Shares:
    """Attributes:
    rows: sequences whose activations a process holds at once in training.
    of_row: its part of each sequence.
    weights: bytes of its weights.
    gradients: bytes of what stays of its gradients from one part of a step to the next; 0: they come and go with it.
    gathered: bytes of what others hold and it needs for a while.
    """

    rows: int
    of_row: float
    weights: int
    gradients: int
    gathered: int

    @staticmethod
    def of(cfg: DictConfig, strategy: Strategy, model: GPT, processes: int) -> "Shares":
        """Cuts the model, too, as the strategy would: what a process does not compute is taken out of it."""
        form: dict[str, int] = getattr(strategy, "shape", lambda _: {})(processes)
        slices = strategy.rows(processes)
        plan = BatchPlan.of(cfg, slices, processes // slices)
        rows, parts = plan.micro_batch, plan.share // plan.micro_batch
        if form.get("tp", 1) > 1:
            cut_heads(model, form["tp"])
        if (stages := form.get("pp", 1)) > 1:
            model.keep_stage(range(model.shape.n_layer // stages), first=True, last=True)
            parts = strategy.cuts(rows, stages)  # type: ignore[attr-defined]
            rows = -(-rows // parts) * stages  # chunks on their way, at most
        sharing = form.get("cp", 1)
        pieces = form.get("data", 1) * sharing if strategy.frugal else 1
        whole = nbytes(model)
        gathered = _gathered(cfg, model) if pieces > 1 else 0
        own = whole // pieces
        gradients = whole if parts > 1 else own if pieces > 1 else 0  # parts of a step are added up uncut
        return Shares(rows, 1 / sharing, own, gradients, gathered)


def nbytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())


def _gathered(cfg: DictConfig, model: GPT) -> int:
    """Of `fully_shard`: what is no block's, for the whole step, and some blocks: their weights and their gradients."""
    blocks = list(map(nbytes, model.blocks))
    ahead = 2 + cfg.strategy.prefetch if cfg.strategy.reshard else len(blocks)
    weights = nbytes(model) - sum(blocks) + sum(blocks[:ahead])
    low = 2 if cfg.strategy.param_dtype == "bf16" else 1
    return weights // low + nbytes(model) - sum(blocks) + 2 * max(blocks)


def cut_heads(model: GPT, count: int) -> None:
    """Leave one of ``count`` processes' heads and hidden units, as `gptx.strategy.cut.cut` does."""
    mesh: Any = SimpleNamespace(get_local_rank=lambda: 0, size=lambda: count)
    for module in model.modules():
        for child, how in module.tp.items() if isinstance(module, Attention | FFN) else ():
            for name, p in list(getattr(module, child).named_parameters()) if how in ("col", "row") else ():
                if how == "col" or p.dim() == 2:
                    own = nn.Parameter(p.chunk(count, 0 if how == "col" else 1)[0].clone())
                    getattr(module, child).register_parameter(name, own)
    show_own_heads(model, mesh)
