"""Tensor parallelism (Megatron-LM, Shoeybi et al. 2019): all processes see the same tokens, and each computes some of
the heads and of the hidden units, as the tables of attentions and FFNs say (`tp`). The embedding, the norms and the
output layer are whole in each of them, and computed alike."""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gptx.errors import ConfigError, option
from gptx.ffn.base import GatedFFN
from gptx.model.gpt import GPT
from gptx.pos.base import PositionalEncoding
from gptx.strategy.cut import cut, serves_heads
from gptx.strategy.distributed import Distributed, add_up

if TYPE_CHECKING:
    from gptx.strategy.batch_plan import BatchPlan


ID = "strategy.tp"
REVISION = 1


class TP(Distributed):
    parts: tuple[str, ...] = ()  # names of weights whose gradients are parts of a sum
    key = "nproc"  # what says how many processes share the heads

    def shape(self, processes: int) -> dict[str, int]:
        return {"tp": processes}

    def __enter__(self) -> "TP":
        super().__enter__()
        self.speaks = self.mesh.get_local_rank("tp") == 0
        self.voices, self.stream = self.data_size, self.data_rank  # those who compute alike drop alike
        return self

    def check(self, model: GPT, processes: int, plan: "BatchPlan") -> None:
        super().check(model, processes, plan)
        count = self.shape(processes)["tp"]
        if (found := uncut(model, count)) is None:
            return
        fits = [n for n in range(1, count) if self.key == "nproc" or processes % n == 0]
        fewer = max(n for n in fits if n == 1 or uncut(model, n) is None)
        ways = [*found[1:], f"strategy.{self.key}={fewer}" if fewer > 1 else "strategy=fsdp"]
        raise ConfigError(
            f"strategy={option(self)} cuts heads and hidden units over {count} processes, given {found[0]}: "
            f"{' or '.join(ways)} would do"
        )

    def place(self, model: GPT) -> nn.Module:
        self.parts = tuple(cut(model.to(self.device), self.mesh["tp"]))
        return super().place(model)

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        named = dict(model.named_parameters())
        gradients = [gradient for name in self.parts if (gradient := named[name].grad) is not None]
        add_up(gradients, self.mesh.get_group("tp"), self.device)
        return super().clip(model, max_norm)


def uncut(model: GPT, count: int) -> tuple[str, ...] | None:
    """What of a model cannot be cut into so many parts, and what instead could, if anything; None: all can."""
    first: Any = model.blocks[0]
    shape, attention, ffn = model.shape, first.attention, first.ffn
    piece = count * attention.head_group
    pairs = " (which go in pairs)" if attention.head_group == 2 else ""
    if shape.n_head % piece:
        heads = [h for h in range(piece, shape.d_model, piece) if shape.d_model % (2 * h) == 0]  # an even head_dim
        return f"model.n_head={shape.n_head}{pairs}", *(f"model.n_head={h}" for h in near(heads, shape.n_head))
    if attention.kv_heads % piece:
        heads = [h for h in range(piece, shape.n_head + 1, piece) if shape.n_head % h == 0]
        ways = (f"attention.n_kv_head={h}" for h in near(heads, attention.kv_heads))
        return f"attention.n_kv_head={attention.kv_heads}{pairs}", *ways
    for width in (getattr(ffn, child).out_features for child, how in ffn.tp.items() if how == "col"):
        if width % count:
            ratio = max(1, round(width / count)) * count / shape.d_model
            way = f"ffn.multiple_of={count}" if isinstance(ffn, GatedFFN) else f"ffn.ratio={ratio:.6g}"
            return f"ffn={option(ffn)} of width {width}", way
    if mixed(model.pos):
        return (f"pos={option(model.pos)}, whose weights serve both embeddings and heads",)
    return None


def near(numbers: list[int], wanted: int) -> list[int]:
    """The nearest one, if there is any."""
    return sorted(numbers, key=lambda number: (abs(number - wanted), number))[:1]


def mixed(pos: PositionalEncoding) -> bool:
    """Whether an encoding that embeds has weights, and does more: then nobody knows which gradients are parts."""
    does_more = pos.biased or type(pos).rotate is not PositionalEncoding.rotate
    return not serves_heads(pos) and does_more and any(True for _ in pos.parameters())
