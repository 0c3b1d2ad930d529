"""Evaluate a model on the validation set: always the same rows in the same order, so that losses can be compared."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.data.batches import NO_TARGET, Ids, validation_rows, validation_starts
from gptx.data.validation_units import ValidationUnits, split_validation
from gptx.geometry.visibility import documents
from gptx.runs.unit_losses import UnitLosses
from gptx.strategy.base import Autocast, Batch, Strategy

_COPIED = 32  # batches whose losses are copied from the device at once

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Validation:
    """The result of a validation.

    Attributes:
        values: metrics by their keys in the journal: of the report half, and with ``_select`` and ``_whole`` at the
            end of the key those of the selection half and of the whole validation set. Of `FormerValidationSet`: of
            the whole validation set.
        units: the losses by unit; None: of `FormerValidationSet`.
    """

    values: dict[str, float]
    units: UnitLosses | None = None


class ValidationSet:
    """The rows on which a run is validated.

    Args:
        tokens: the validation split, a memory-mapped array.
        token_bytes: (V,) number of bytes that each token counts for in bits per byte.
        context: tokens in a row.
        max_tokens: how many tokens to use, spread over the validation split; 0: all.
        batch_size: rows that each rank evaluates at once.
        separator: the token that separates documents, where rows with several documents are masked; None: no mask.
        eot: the token that ends a document; None: the validation split counts as one document.
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
        eot: int | None = None,
        incomplete: bool = True,
    ) -> None:
        self.tokens, self.token_bytes, self.context, self.batch_size = tokens, token_bytes, context, batch_size
        self.separator, self.eot = separator, eot
        self.starts = validation_starts(len(tokens), context, max_tokens, incomplete)

    @cached_property
    def units(self) -> ValidationUnits:
        """The units of the text and its two halves."""
        return split_validation(self.tokens, self.starts, self.context, self.token_bytes, self.eot)

    def evaluate(self, model: nn.Module, strategy: Strategy, autocast: Autocast, step: int = 0) -> Validation:
        """Evaluate all rows on all ranks: loss (nats per token), perplexity, bits per byte and top-1 accuracy.

        Args:
            step: the step after which the model is evaluated.
        """
        units = self.units
        nats, hits = strategy.sum(torch.from_numpy(self._sums(model, strategy, autocast))).cpu().numpy()
        whole = np.ones_like(units.report)
        values: dict[str, float] = {}
        for part, chosen in (("", units.report), ("_select", units.select), ("_whole", whole)):
            found = _metrics(*(x[chosen].sum() for x in (nats, hits, units.size, units.tokens)))
            values |= {f"{key}{part}": value for key, value in found.items()}
        losses = UnitLosses(
            step=step,
            document=units.document,
            offset=units.offset,
            select=units.select,
            report=units.report,
            nats=nats,
            tokens=units.tokens,
            size=units.size,
        )
        return Validation(values, losses)

    def _sums(self, model: nn.Module, strategy: Strategy, autocast: Autocast) -> Sums:
        """(2, U): nats and correct predictions of each unit, in the tokens that this rank reports.

        They are added on the CPU, because it always adds in the same order.
        """
        sums = np.zeros((2, len(self.units.starts)))
        results = self._results(model, strategy, autocast)
        while batches := list(islice(results, _COPIED)):
            unit = self.units.of(torch.cat([at for at, _ in batches]).numpy())
            for total, values in zip(sums, torch.cat([values for _, values in batches], 1).cpu(), strict=True):
                total += np.bincount(unit, values.double().numpy(), len(total))
        return sums

    def _results(self, model: nn.Module, strategy: Strategy, autocast: Autocast) -> Iterator[tuple[Tensor, Tensor]]:
        """What `_reduce` returns for each batch of which this rank reports something."""
        training = model.training
        model.eval()
        for starts in self._batches(strategy):
            result = self._batch(model, starts, strategy, autocast)
            if result is not None:
                yield result
        model.train(training)

    def _batches(self, strategy: Strategy) -> list[Ids]:
        """The start of every row, one array per batch of this rank. All ranks have the same number of batches, because
        they may compute them together; the last batch may be empty."""
        own = self.starts[strategy.data_rank :: strategy.data_size]
        count = -(-len(self.starts) // (strategy.data_size * self.batch_size))
        return [own[i * self.batch_size :][: self.batch_size] for i in range(count)]

    @torch.no_grad()
    def _batch(
        self, model: nn.Module, starts: Ids, strategy: Strategy, autocast: Autocast
    ) -> tuple[Tensor, Tensor] | None:
        """Evaluate the rows at ``starts``. The last batch is padded with other rows, so that a compiled model sees one
        shape only; they are not counted."""
        padded = np.resize(starts if len(starts) else self.starts, self.batch_size)
        rows = validation_rows(self.tokens, padded, self.context)
        x, y = (torch.from_numpy(ids).to(strategy.device) for ids in rows)
        predicted = strategy.predict(model, Batch(x, y, documents(x, self.separator)), autocast)
        if predicted is None:
            return None
        logits, targets = (tensor[: len(starts)] for tensor in predicted)
        at = torch.from_numpy(starts[:, None] + np.arange(1, self.context + 1))
        reported = strategy.shard(Batch(at, at))[1]  # the positions of the targets that the strategy gave this rank
        return reported.flatten(), self._reduce(logits.float(), targets)

    def _reduce(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(b, T, V), (b, T) -> the loss of each target, and whether it is predicted correctly (2, b T)."""
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=NO_TARGET)
        return torch.stack([nats, (logits.argmax(-1) == targets).flatten().float()])


def _metrics(nats: float, hits: float, size: float, count: float) -> dict[str, float]:
    """The metrics of ``count`` tokens of ``size`` bytes."""
    nats, hits, size, count = float(nats), float(hits), float(size), float(count)
    return {
        "val/loss": nats / count,
        "val/perplexity": math.exp(min(nats / count, 700)),
        "val/bpb": nats / math.log(2) / max(size, 1),
        "val/accuracy": hits / count,
    }


class FormerValidationSet(ValidationSet):
    """The validation of runs that were started with version 1 or 2 of `gptx.runs.records.VALIDATION`: of the whole
    validation set only, with the same rounding as when they were started.
    """

    def evaluate(self, model: nn.Module, strategy: Strategy, autocast: Autocast, step: int = 0) -> Validation:
        sums = [sums for _, sums in self._results(model, strategy, autocast)] or [torch.zeros(4)]
        return Validation(_metrics(*strategy.sum(torch.stack(sums).cpu().double().sum(0)).tolist()))

    def _reduce(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(b, T, V), (b, T) -> nats, correct predictions, bytes and tokens (4,)."""
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=NO_TARGET)
        hits, counted = (logits.argmax(-1) == targets).sum(), targets != NO_TARGET
        size = (torch.from_numpy(self.token_bytes).to(targets.device)[targets.clamp(min=0)] * counted).sum()
        return torch.stack([nats, hits.float(), size.float(), counted.sum().float()])
