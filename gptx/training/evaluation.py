"""Evaluate a model on the validation set: always the same rows in the same order, so that losses can be compared."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.data.batches import NO_TARGET, Ids, validation_rows, validation_starts
from gptx.geometry.visibility import documents
from gptx.strategy.base import Autocast, Batch, Strategy


class ValidationSet:
    """The rows on which a run is validated.

    Args:
        tokens: the validation split, a memory-mapped array.
        token_bytes: (V,) number of bytes that each token counts for in bits per byte.
        context: tokens in a row.
        max_tokens: how many tokens to use, spread over the validation split; 0: all.
        batch_size: rows that each rank evaluates at once.
        separator: the token that separates documents, where rows with several documents are masked; None: no mask.
        incomplete: whether the whole validation split includes a last row with fewer tokens.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        token_bytes: np.ndarray,
        context: int,
        max_tokens: int,
        batch_size: int,
        separator: int | None = None,
        incomplete: bool = True,
    ) -> None:
        self.tokens, self.context, self.batch_size, self.separator = tokens, context, batch_size, separator
        self.token_bytes = torch.from_numpy(token_bytes)
        self.starts = validation_starts(len(tokens), context, max_tokens, incomplete)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, strategy: Strategy, autocast: Autocast) -> dict[str, float]:
        """Return loss (nats per token), perplexity, bits per byte and top-1 accuracy over all rows of all ranks."""
        training = model.training
        model.eval()
        sums = [self._batch(model, starts, strategy, autocast) for starts in self._batches(strategy)]
        model.train(training)
        total = torch.stack(sums).cpu().double().sum(0)
        nats, hits, size, count = strategy.sum(total).tolist()
        return {
            "val/loss": nats / count,
            "val/perplexity": math.exp(min(nats / count, 700)),
            "val/bpb": nats / math.log(2) / max(size, 1),
            "val/accuracy": hits / count,
        }

    def _batches(self, strategy: Strategy) -> list[Ids]:
        """The start of every row, one array per batch of this rank. All ranks have the same number of batches, because
        they may compute them together; the last batch may be empty."""
        own = self.starts[strategy.data_rank :: strategy.data_size]
        count = -(-len(self.starts) // (strategy.data_size * self.batch_size))
        return [own[i * self.batch_size :][: self.batch_size] for i in range(count)]

    def _batch(self, model: nn.Module, starts: Ids, strategy: Strategy, autocast: Autocast) -> Tensor:
        """(4,): nats, correct predictions, bytes and tokens of the rows at ``starts``.

        The last batch is padded with other rows, so that a compiled model sees one shape only; they are not counted.
        """
        padded = np.resize(starts if len(starts) else self.starts, self.batch_size)
        rows = validation_rows(self.tokens, padded, self.context)
        x, y = (torch.from_numpy(ids).to(strategy.device) for ids in rows)
        predicted = strategy.predict(model, Batch(x, y, documents(x, self.separator)), autocast)
        if predicted is None:
            return torch.zeros(4, device=strategy.device)
        logits, y = (tensor[: len(starts)] for tensor in predicted)
        logits = logits.float()
        nats = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum", ignore_index=NO_TARGET)
        hits = (logits.argmax(-1) == y).sum()
        counted = y != NO_TARGET
        size = (self.token_bytes.to(y.device)[y.clamp(min=0)] * counted).sum()
        return torch.stack([nats, hits.float(), size.float(), counted.sum().float()])
