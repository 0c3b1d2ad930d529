"""Validation: always the same windows in the same order, so that two numbers can be compared."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.data.batches import val_windows, windows
from gptx.geometry.visibility import documents
from gptx.strategy.base import Autocast, Batch, Strategy


class Validation:
    """The fixed validation set of a run.

    Args:
        tokens: the validation split, a memory-mapped array.
        token_bytes: (V,) bytes of text each token stands for.
        max_tokens: how many tokens to use, spread over the split; 0: all.
        batch: windows at once in each process.
        separator: the token between documents, where documents are to be hidden from one another; None: not.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        token_bytes: np.ndarray,
        context: int,
        max_tokens: int,
        batch: int,
        separator: int | None = None,
    ) -> None:
        self.tokens, self.context, self.batch = tokens, context, batch
        self.token_bytes = torch.from_numpy(token_bytes)
        self.separator = separator
        self.starts = val_windows(tokens, context, max_tokens)

    @torch.no_grad()
    def run(self, model: nn.Module, strategy: Strategy, autocast: Autocast) -> dict[str, float]:
        """Loss (nats a token), perplexity, bits per byte, top-1 accuracy over the whole set, all processes together."""
        training = model.training
        model.eval()
        sums = [self._batch(model, rows, strategy, autocast) for rows in self._batches(strategy)]
        model.train(training)
        total = torch.stack(sums).cpu().double().sum(0)
        nats, hits, size, count = strategy.sum(total).tolist()
        return {
            "val/loss": nats / count,
            "val/perplexity": math.exp(min(nats / count, 700)),
            "val/bpb": nats / math.log(2) / max(size, 1),
            "val/accuracy": hits / count,
        }

    def _batches(self, strategy: Strategy) -> list[np.ndarray]:
        """As many in each process, which may have to compute them together; the last may be empty."""
        mine = self.starts[strategy.data_rank :: strategy.data_size]
        count = -(-len(self.starts) // (strategy.data_size * self.batch))
        return [mine[i * self.batch :][: self.batch] for i in range(count)]

    def _batch(self, model: nn.Module, starts: np.ndarray, strategy: Strategy, autocast: Autocast) -> Tensor:
        """(nats, hits, bytes, tokens) of some windows. The last batch is filled up, so that a compiled model sees one
        shape only, and what fills it is not counted."""
        filled = np.resize(starts if len(starts) else self.starts, self.batch)
        rows = torch.from_numpy(windows(self.tokens, filled, self.context)).to(strategy.device)
        x, y = rows[:, :-1], rows[:, 1:]
        predicted = strategy.predict(model, Batch(x, y, documents(x, self.separator)), autocast)
        if predicted is None:
            return torch.zeros(4, device=strategy.device)
        logits, y = (tensor[: len(starts)] for tensor in predicted)
        logits = logits.float()
        nats = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
        hits = (logits.argmax(-1) == y).sum()
        size = self.token_bytes.to(y.device)[y].sum()
        return torch.stack([nats, hits.float(), size.float(), torch.tensor(float(y.numel()), device=y.device)])
