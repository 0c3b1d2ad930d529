"""The model: GPT-2's skeleton with every part exchangeable.

Letters: B batch, T time, D model width, V vocabulary.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptx.attention.base import Attention
from gptx.errors import option
from gptx.ffn.base import FFN
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.model.cache import Context, NoContext
from gptx.model.view import View
from gptx.placement.base import Block
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


class GPT(nn.Module):
    """A decoder-only language model.

    Args:
        shape: the sizes.
        attention, ffn, norm: makers of one layer's parts.
        block: puts them together.
        pos, window, kernel: shared by all layers; ``pos.at`` and ``window.at`` give each layer its own.
        tie: whether the output layer is the token embedding.
    """

    def __init__(
        self,
        shape: ModelShape,
        attention: Callable[[], Attention],
        ffn: Callable[[], FFN],
        norm: Callable[[], nn.Module],
        block: Callable[[Attention, FFN, Callable[[], nn.Module]], Block],
        pos: PositionalEncoding,
        window: Window,
        kernel: Kernel,
        tie: bool,
    ) -> None:
        super().__init__()
        self.shape, self.pos, self.kernel = shape, pos, kernel
        self.embed = nn.Embedding(shape.vocab_size, shape.d_model)
        self.drop = nn.Dropout(shape.dropout)
        self.recompute = False  # activation checkpointing
        self.layers = range(shape.n_layer)  # those that this process holds
        blocks = [block(attention(), ffn(), norm) for _ in range(shape.n_layer)]
        self.blocks = nn.ModuleList(blocks)
        self.ffns = tuple(block.ffn for block in blocks)
        self.norm = norm() if blocks[-1].final_norm else nn.Identity()
        self.head = None if tie else nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        self.windows = tuple(window.at(layer, shape.n_layer) for layer in range(shape.n_layer))
        # A tuple, not a ModuleList: only `self.pos` registers parameters, or state-dict keys would double.
        self.layer_pos = tuple(pos.at(layer, window) for layer, window in enumerate(self.windows))

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        memory: Context | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V); with targets (B, T) -> their mean negative log-likelihood in nats.

        Args:
            memory: what the tokens see besides each other; None: nothing.
            documents: (B, T) ids of the documents that are packed into the rows; None: each row is one.
        """
        memory = memory or NoContext()
        self._check_length(memory.length + tokens.shape[1])
        where = memory.where(set(self.windows), tokens, documents)
        x = self.through(self.begin(tokens, where), where, memory)
        memory.advance(tokens.shape[1])
        return self.end(x, targets)

    def begin(self, tokens: Tensor, where: dict[Window, Where]) -> Tensor:
        """Tokens (B, T) -> the residual stream (B, T, D)."""
        return self.drop(self.pos.embed(self.embed(tokens), where[self.windows[0]].q_pos))  # type: ignore[no-any-return]

    def through(self, x: Tensor, where: dict[Window, Where], memory: Context) -> Tensor:
        """(B, T, D) -> (B, T, D), through the layers that are here."""
        views = self._views(where)
        for layer in self.layers:
            x = self._run(self.blocks[layer], x, views[layer], memory.keeper(layer, self.windows[layer]))
        return x

    def _run(self, block: nn.Module, *args: Any) -> Tensor:
        """A block; with activation checkpointing only what it is given is kept, and the rest is computed again in the
        backward (Chen et al. 2016)."""
        if not (self.recompute and torch.is_grad_enabled()):
            return block(*args)  # type: ignore[no-any-return]
        said: dict[str, Any] = {}
        if not torch.compiler.is_compiling():
            said["context_fn"] = lambda: (nullcontext(), _unheard(block))
        x: Tensor = checkpoint(block, *args, use_reentrant=False, **said)
        return x

    def end(self, x: Tensor, targets: Tensor | None) -> Tensor:
        """The residual stream (B, T, D) -> logits (B, T, V), or their loss."""
        logits = F.linear(self.norm(x), self.embed.weight if self.head is None else self.head.weight)
        return logits if targets is None else self._loss(logits, targets)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean negative log-likelihood. Side losses of the parts add their gradient to it, but not their value."""
        high = torch.promote_types(logits.dtype, torch.float32)
        loss = F.cross_entropy(logits.flatten(0, 1).to(high), targets.flatten())
        sides = [ffn.balance for ffn in self.ffns if ffn.balance is not None]
        if sides:
            side = torch.stack(sides).mean()
            loss = loss + (side - side.detach())
            for ffn in self.ffns:
                ffn.balance = None  # its graph is not kept
        return loss

    def _views(self, where: dict[Window, Where]) -> dict[int, View]:
        """One view a layer; layers with the same window and encoding share one, with its mask and table."""
        rooms = {layer: (self.windows[layer], self.layer_pos[layer]) for layer in self.layers}
        views: dict[tuple[Window, PositionalEncoding], View] = {}
        for window, encoding in rooms.values():
            if (window, encoding) not in views:
                place = where[window]
                table, mask = encoding.table(place.q_pos), self.kernel.mask(place, window, encoding)
                views[window, encoding] = View(encoding, self.kernel, table, mask)
        return {layer: views[room] for layer, room in rooms.items()}

    def metrics(self) -> dict[str, Tensor]:
        """What the parts tell of the last forward in training, each a mean over the layers that tell it."""
        told = [ffn.metrics() for ffn in self.ffns]
        return {name: torch.stack([one[name] for one in told]).mean() for name in told[0]}

    def _check_length(self, length: int) -> None:
        if self.pos.max_length is not None and length > self.pos.max_length:
            raise ValueError(
                f"pos={option(self.pos)} ends at {self.pos.max_length} tokens, given {length}: "
                "use a shorter input, or an encoding without an end (rope, alibi, none)"
            )

    def initialise(self, seed: int) -> None:
        """GPT-2's initialisation of matrices: std 0.02, and 0.02/sqrt(2 n_layer) where a branch joins the residual
        stream. Biases of linear layers begin at 0, and vectors as their part made them.

        Each weight draws from its own stream, named by its place: so two variants with the same seed start with
        equal weights wherever they have the same parts, and a comparison between them is paired.
        """
        for name, parameter in self.named_parameters():
            place = name.removesuffix(".weight")
            if parameter.dim() > 1:
                joins = place.startswith("blocks.") and place.endswith(".out")
                std = 0.02 / math.sqrt(2 * self.shape.n_layer) if joins else 0.02
                stream = torch.Generator().manual_seed(zlib.crc32(f"{seed} {place}".encode()))  # 32 bits: all it reads
                parameter.data.normal_(0.0, std, generator=stream)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.data.zero_()


@contextmanager
def _unheard(block: nn.Module) -> Iterator[None]:
    """What a block says when it is computed again has been heard, and its graph need not be kept."""
    try:
        yield
    finally:
        block.ffn.balance = None  # type: ignore[union-attr]
