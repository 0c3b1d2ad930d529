"""Tensor parallelism (Megatron-LM, Shoeybi et al. 2019): all processes see the same tokens, and each computes a part of
the heads and of the hidden units, as the `tp` tables of attentions and FFNs define. Every process holds the full
embedding, norms and output layer and computes them redundantly."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.errors import ConfigError, option
from gptx.ffn.base import FFN, GatedFFN
from gptx.model.gpt import GPT
from gptx.pos.base import PositionalEncoding
from gptx.strategy.distributed import Distributed, all_reduce_gradients
from gptx.strategy.footprint import Footprint
from gptx.strategy.tp_sharding import shard_model, take_local_shards

if TYPE_CHECKING:
    from gptx.strategy.batch_plan import BatchPlan
WAYS = ("col", "row", "replicated", "shared")  # the values of a tp table

ID = "strategy.tp"
REVISION = 2  # 2: with dropout, each rank drops weights of its heads independently


class TP(Distributed):
    """Splits heads and hidden units over all processes.

    Args: those of `Distributed`.
    """

    partial_gradients: tuple[str, ...] = ()  # names of weights whose gradients have to be summed over the tp group
    size_key = "nproc"  # the strategy's key that sets the size of the tp group

    def mesh_shape(self, processes: int) -> dict[str, int]:
        return {"tp": processes}

    def __enter__(self) -> "TP":
        super().__enter__()
        self.is_reporting_rank = self.mesh.get_local_rank("tp") == 0
        self.loss_ranks = self.data_size
        self.dropout_stream = self.data_rank  # ranks that compute the same activations drop the same ones
        return self

    def check(self, model: GPT, processes: int, plan: "BatchPlan") -> None:
        super().check(model, processes, plan)
        count = self.mesh_shape(processes)["tp"]
        first: Any = model.blocks[0]
        for axis, part in (("attention", first.attention), ("ffn", first.ffn)):
            if wrong := tp_table_error(part):
                raise ConfigError(
                    f"strategy={option(self)} cannot split {axis}={option(part)}: {wrong} "
                    f"(docs/contracts.md#tensor-parallelism); strategy=fsdp needs no such table"
                )
        if (found := find_indivisible(model, count)) is None:
            return
        smaller = [n for n in range(1, count) if self.size_key == "nproc" or processes % n == 0]
        fewer = max(n for n in smaller if n == 1 or find_indivisible(model, n) is None)
        alternatives = [f"strategy.{self.size_key}={fewer}" if fewer > 1 else "strategy=fsdp"]
        if found.alternative:
            alternatives.insert(0, found.alternative)
        raise ConfigError(
            f"strategy={option(self)} splits heads and hidden units over {count} processes, which is not possible with "
            f"{found.given}: use {' or '.join(alternatives)}"
        )

    def footprint(self, model: GPT, plan: "BatchPlan", processes: int) -> Footprint:
        take_local_shards(model, self.mesh_shape(processes)["tp"])
        return super().footprint(model, plan, processes)

    def place(self, model: GPT) -> nn.Module:
        self.partial_gradients = tuple(shard_model(model.to(self.device), self.mesh["tp"]))
        return super().place(model)

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        parameters = dict(model.named_parameters())
        partial = [parameters[name].grad for name in self.partial_gradients]
        gradients = [gradient for gradient in partial if gradient is not None]
        all_reduce_gradients(gradients, self.mesh.get_group("tp"), self.device)
        return super().clip(model, max_norm)


@dataclass(frozen=True)
class Indivisible:
    """A setting with which a model cannot be split over the processes, and the nearest one that works ("": none)."""

    given: str
    alternative: str = ""


def tp_table_error(part: Attention | FFN) -> str:
    """Return what is wrong with the `tp` table of an attention or a feed-forward network; "" if nothing is."""
    if part.tp is None:
        return "its class declares no tensor parallelism, the attributes tp and kv_heads"
    modules, parameters = dict(part.named_modules()), dict(part.named_parameters())
    for child, how in part.tp.items():
        if how not in WAYS:
            return f"tp has {child!r}: {how!r}, expected one of {', '.join(WAYS)}"
        if child not in modules and not (how == "shared" and child in parameters):
            return f"tp has {child!r}, which is not the name of a child module"
        if how == "row" and not isinstance(modules[child], nn.Linear):
            return f"tp has {child!r}: 'row', which is possible for an nn.Linear only"
        if how == "col" and any(one.dim() == 0 for one in modules[child].parameters()):
            return f"tp has {child!r}: 'col', whose parameter of 0 dimensions cannot be split; 'shared' is possible"
    return ""


def find_indivisible(model: GPT, count: int) -> Indivisible | None:
    """Return a setting with which the model cannot be split over ``count`` processes, or None if it can be."""
    first: Any = model.blocks[0]
    return (
        _indivisible_heads(model, first.attention, count)
        or _indivisible_width(model, first.ffn, count)
        or _indivisible_encoding(model.pos)
    )


def _indivisible_heads(model: GPT, attention: Any, count: int) -> Indivisible | None:
    shape, multiple = model.shape, count * attention.head_group
    pairs = " (heads are split in pairs)" if attention.head_group == 2 else ""
    if shape.n_head % multiple:
        possible = [
            h for h in range(multiple, shape.d_model, multiple) if shape.d_model % (2 * h) == 0
        ]  # even head_dim
        return Indivisible(f"model.n_head={shape.n_head}{pairs}", _nearest("model.n_head", possible, shape.n_head))
    if attention.kv_heads % multiple:
        possible = [h for h in range(multiple, shape.n_head + 1, multiple) if shape.n_head % h == 0]
        given = f"attention.n_kv_head={attention.kv_heads}{pairs}"
        return Indivisible(given, _nearest("attention.n_kv_head", possible, attention.kv_heads))
    return None


def _indivisible_width(model: GPT, ffn: Any, count: int) -> Indivisible | None:
    split = (ffn.get_submodule(child) for child, how in ffn.tp.items() if how == "col")
    for width in (len(parameter) for module in split for parameter in module.parameters()):
        if width % count:
            ratio = max(1, round(width / count)) * count / model.shape.d_model
            alternative = f"ffn.multiple_of={count}" if isinstance(ffn, GatedFFN) else f"ffn.ratio={ratio:.6g}"
            return Indivisible(f"ffn={option(ffn)} of width {width}", alternative)
    return None


def _indivisible_encoding(pos: PositionalEncoding) -> Indivisible | None:
    if has_shared_weights(pos):
        return Indivisible(f"pos={option(pos)}, whose weights are used in the embedding and in the heads")
    return None


def _nearest(key: str, possible: list[int], wanted: int) -> str:
    """Return an override with the possible number that is nearest to the wanted one; "": there is none."""
    if not possible:
        return ""
    return f"{key}={min(possible, key=lambda number: (abs(number - wanted), number))}"


def has_shared_weights(pos: PositionalEncoding) -> bool:
    """Whether weights of the encoding may be used both in the embedding and in the heads: then it is unknown which
    of their gradients are partial sums."""
    used_in_heads = pos.biased or type(pos).rotate is not PositionalEncoding.rotate
    return pos.embeds and used_in_heads and any(True for _ in pos.parameters())
