"""The model: GPT-2's skeleton with every part exchangeable.

Letters: B batch, T time, D model width, V vocabulary.
"""

import math
import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.attention.base import Attention, Keep
from gptx.cache import Cache, keep_nothing
from gptx.kernel.base import Kernel
from gptx.pos.base import PositionalEncoding
from gptx.shape import Shape
from gptx.view import View
from gptx.where import Where
from gptx.window.base import Window


class Block(nn.Module):
    """Pre-norm residual block (GPT-2)."""

    def __init__(self, shape: Shape, attention: Attention, ffn: nn.Module, norms: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attention = norms[0], attention
        self.norm2, self.ffn = norms[1], ffn
        self.drop = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), view, keep))
        x = x + self.drop(self.ffn(self.norm2(x)))
        return x


class GPT(nn.Module):
    """A decoder-only language model.

    Args:
        shape: the sizes.
        attention, ffn, norm: makers of one layer's parts.
        pos, window, kernel: shared by all layers; ``pos.at`` and ``window.at`` give each layer its own.
        tie: whether the output layer is the token embedding.
    """

    def __init__(
        self,
        shape: Shape,
        attention: Callable[[], Attention],
        ffn: Callable[[], nn.Module],
        norm: Callable[[], nn.Module],
        pos: PositionalEncoding,
        window: Window,
        kernel: Kernel,
        tie: bool,
    ) -> None:
        super().__init__()
        self.shape, self.pos, self.kernel = shape, pos, kernel
        self.embed = nn.Embedding(shape.vocab_size, shape.d_model)
        self.drop = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape, attention(), ffn(), (norm(), norm())) for _ in range(shape.n_layer))
        self.norm = norm()
        self.head = None if tie else nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        self.windows = tuple(window.at(layer, shape.n_layer) for layer in range(shape.n_layer))
        # A tuple, not a ModuleList: only `self.pos` registers parameters, or state-dict keys would double.
        self.layer_pos = tuple(pos.at(layer, window) for layer, window in enumerate(self.windows))

    def forward(self, tokens: Tensor, targets: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V); with targets (B, T) -> their mean negative log-likelihood in nats."""
        past = cache.length if cache else 0
        self._check_length(past + tokens.shape[1])
        pos = torch.arange(past, past + tokens.shape[1], device=tokens.device)[None]  # (1, T)
        x = self.drop(self.pos.embed(self.embed(tokens), pos))
        for layer, (block, view) in enumerate(zip(self.blocks, self._views(pos, cache), strict=True)):
            x = block(x, view, cache.keeper(layer, self.windows[layer]) if cache else keep_nothing)
        if cache:
            cache.length += tokens.shape[1]
        logits = F.linear(self.norm(x), self.embed.weight if self.head is None else self.head.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _views(self, pos: Tensor, cache: Cache | None) -> list[View]:
        """One view a layer; layers with the same window and encoding share one, with its mask and table."""
        views: dict[tuple[Window, PositionalEncoding], View] = {}
        for room in zip(self.windows, self.layer_pos, strict=True):
            if room not in views:
                window, encoding = room
                where = Where(pos, pos, aligned=True)
                if cache and cache.length:
                    where = Where(pos, torch.cat((cache.positions(window, pos.device), pos), dim=1))
                mask = self.kernel.mask(where, window, encoding)
                views[room] = View(encoding, self.kernel, encoding.table(pos), mask)
        return [views[room] for room in zip(self.windows, self.layer_pos, strict=True)]

    def _check_length(self, length: int) -> None:
        if self.pos.max_length is not None and length > self.pos.max_length:
            raise ValueError(
                f"{type(self.pos).__name__} positions end at {self.pos.max_length} tokens, given {length}: "
                "use a shorter input, or an encoding without a table (rope, alibi, sinusoidal, none)"
            )

    def initialise(self, seed: int) -> None:
        """GPT-2's initialisation: std 0.02, and 0.02/sqrt(2 n_layer) where a branch joins the residual stream.

        Each weight draws from its own stream, named by its place: so two variants with the same seed start with
        equal weights wherever they have the same parts, and a comparison between them is paired.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                joins = name.startswith("blocks.") and name.endswith(".out")
                std = 0.02 / math.sqrt(2 * self.shape.n_layer) if joins else 0.02
                stream = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))  # 32 bits: all it reads
                module.weight.data.normal_(0.0, std, generator=stream)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.data.zero_()
