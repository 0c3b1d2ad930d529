"""The model: the architecture of GPT-2 with every part exchangeable.

Letters: B batch, T time, D model width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptx.errors import option
from gptx.ffn.base import FFN
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.model.kv_cache import Context, NoContext
from gptx.model.layer_view import LayerView
from gptx.placement.base import Block
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


class GPT(nn.Module):
    """A decoder-only language model.

    Args:
        blocks: one per layer.
        norm: creates one norm.
        pos, window, kernel: shared by all layers; ``pos.at`` and ``window.at`` return those of one layer.
        tie: whether the output layer uses the weights of the token embedding.
        recompute: activation checkpointing: a block saves only its input, and the backward computes it again (Chen et
            al. 2016).

    Attributes:
        layers: indices of the layers that this process computes.
        windows, layer_pos: window and encoding of each layer.
    """

    def __init__(
        self,
        shape: ModelShape,
        blocks: Sequence[Block],
        norm: Callable[[], nn.Module],
        pos: PositionalEncoding,
        window: Window,
        kernel: Kernel,
        *,
        tie: bool,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.shape, self.pos, self.kernel, self.recompute = shape, pos, kernel, recompute
        self.embed = nn.Embedding(shape.vocab_size, shape.d_model)
        self.drop = nn.Dropout(shape.dropout)
        self.layers = range(shape.n_layer)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm() if blocks[-1].final_norm else nn.Identity()
        self.head = None if tie else nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        self.windows = tuple(window.at(layer, shape.n_layer) for layer in range(shape.n_layer))
        # A tuple, not a ModuleList: only `self.pos` registers parameters, or the state dict would have them twice.
        self.layer_pos = tuple(pos.at(layer, window) for layer, window in enumerate(self.windows))

    @property
    def ffns(self) -> tuple[FFN, ...]:
        """The feed-forward networks of the layers that this process computes."""
        return tuple(self.blocks[layer].ffn for layer in self.layers)  # type: ignore[misc]

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        context: Context | None = None,
        documents: Tensor | None = None,
        side: SideLosses | None = None,
    ) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V); with targets (B, T) -> their mean negative log-likelihood in nats.

        Args:
            context: the other tokens that these tokens see; None: no others.
            documents: (B, T) ids of the documents packed into the rows; None: one document per row.
            side: collects the side losses and metrics of the layers in training; None: the metrics are dropped.

        Raises:
            ValueError: the row is longer than the encoding supports.
        """
        context, side = context or NoContext(), side or SideLosses()
        self._check_length(context.length + tokens.shape[1])
        where = context.where(set(self.windows), tokens, documents)
        x = self.run_layers(self.embed_tokens(tokens, where), where, context, side)  # (B, T, D)
        context.advance(tokens.shape[1])
        return self.output(x, targets, side)

    def embed_tokens(self, tokens: Tensor, where: dict[Window, Where]) -> Tensor:
        """Tokens (B, T) -> the residual stream (B, T, D)."""
        x: Tensor = self.drop(self.pos.embed(self.embed(tokens), where[self.windows[0]].q_pos))
        return x

    def run_layers(self, x: Tensor, where: dict[Window, Where], context: Context, side: SideLosses) -> Tensor:
        """The residual stream (B, T, D) -> (B, T, D), through the layers of this process."""
        views = self.views(where)
        for layer in self.layers:
            keep = context.keeper(layer, self.windows[layer])
            x = self._run_block(self.blocks[layer], x, views[layer], keep, side)
        return x

    def _run_block(self, block: nn.Module, x: Tensor, view: View, keep: Keep, side: SideLosses) -> Tensor:
        """(B, T, D) -> (B, T, D). Under activation checkpointing the block has its own collector, because the
        backward runs it a second time and must not add its side losses again."""
        if not (self.recompute and torch.is_grad_enabled()):
            return block(x, view, keep, side)  # type: ignore[no-any-return]

        def run(x: Tensor) -> tuple[Tensor, list[Tensor], dict[str, list[Tensor]]]:
            own = SideLosses()
            return block(x, view, keep, own), own.losses, own.metrics

        y, losses, metrics = checkpoint(run, x, use_reentrant=False)
        side.extend(losses, metrics)
        return y  # type: ignore[no-any-return]

    def output(self, x: Tensor, targets: Tensor | None, side: SideLosses) -> Tensor:
        """The residual stream (B, T, D) -> logits (B, T, V), or the mean loss of targets (B, T).

        Side losses change the gradient of the loss and not its value.
        """
        logits = F.linear(self.norm(x), self.embed.weight if self.head is None else self.head.weight)
        if targets is None:
            return logits
        high = torch.promote_types(logits.dtype, torch.float32)
        return side.added_to(F.cross_entropy(logits.flatten(0, 1).to(high), targets.flatten()))  # (B*T, V), (B*T,)

    def views(self, where: dict[Window, Where]) -> dict[int, LayerView]:
        """Return the view of each layer. Layers with the same window and encoding share one, its mask and its table."""
        views: dict[tuple[Window, PositionalEncoding], LayerView] = {}
        for layer in self.layers:
            window, pos = key = self.windows[layer], self.layer_pos[layer]
            if key not in views:
                table, mask = pos.table(where[window].q_pos), self.kernel.mask(where[window], window, pos)
                views[key] = LayerView(pos, self.kernel, table, mask)
        return {layer: views[self.windows[layer], self.layer_pos[layer]] for layer in self.layers}

    def _check_length(self, length: int) -> None:
        if self.pos.max_length is not None and length > self.pos.max_length:
            raise ValueError(
                f"pos={option(self.pos)} supports {self.pos.max_length} tokens, given {length}; "
                "use a shorter input, or an encoding without a limit (rope, alibi, none)"
            )

    def use_kernel(self, kernel: Kernel) -> None:
        """Replace the kernel."""
        self.kernel = kernel.train(self.training)

    @contextmanager
    def with_kernel(self, kernel: Kernel) -> Iterator[None]:
        """Replace the kernel inside a ``with`` block."""
        before = self.kernel
        self.use_kernel(kernel)
        try:
            yield
        finally:
            self.use_kernel(before)

    def choose_kernel_for(self, device_type: str) -> None:
        """Make `kernel=auto` choose as it does on another type of device (memory estimates compute on the CPU)."""
        self.kernel.target_device = device_type

    def keep_heads(self, n_head: int, encoding: Callable[[PositionalEncoding], PositionalEncoding]) -> None:
        """Compute only ``n_head`` query heads here (tensor parallelism).

        Args:
            encoding: returns an encoding as it applies to these heads.
        """
        for kernel in self.kernel.modules():
            if isinstance(kernel, Kernel):
                kernel.n_head = n_head
        own = {pos: encoding(pos) for pos in dict.fromkeys(self.layer_pos)}
        self.layer_pos = tuple(own[pos] for pos in self.layer_pos)

    def keep_stage(self, layers: range, *, first: bool, last: bool) -> None:
        """Drop the weights outside one stage of a pipeline; the names of the others do not change.

        Args:
            layers: the layers of the stage.
            first, last: whether the stage embeds tokens, and whether it computes the output.
        """
        self.layers, tied = layers, self.head is None
        dropped = [f"blocks.{layer}" for layer in range(self.shape.n_layer) if layer not in layers]
        if not first:
            dropped += ["pos"] * self.pos.embeds + ["embed"] * (not tied or not last)
        if not last:
            dropped += ["norm"] + ["head"] * (not tied)
        for name in dropped:
            self.set_submodule(name, nn.Identity())
