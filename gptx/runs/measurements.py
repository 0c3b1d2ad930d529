"""What is measured in a run: the part of its result that training adds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Measured values; None: not measured. Losses are in nats per token.

    Attributes:
        val_loss, val_bpb, val_accuracy, val_perplexity: of the last validation, on the report half. Of runs with
            ``validation`` 1 or 2: of the best validation, on the whole validation set.
        val_loss_select, and the others with this ending: of the last validation, on the selection half.
        val_loss_whole, val_bpb_whole: of the last validation, on the whole validation set.
        val_loss_best, val_bpb_best: at ``best_step``, on the report half.
        best_step: the step of the best validation on the selection half.
        other_runs: how many other runs the same user trained on the machine at the same time, at most.
    """

    val_loss: float | None = None
    val_bpb: float | None = None
    val_accuracy: float | None = None
    val_perplexity: float | None = None
    val_loss_select: float | None = None
    val_bpb_select: float | None = None
    val_accuracy_select: float | None = None
    val_perplexity_select: float | None = None
    val_loss_whole: float | None = None
    val_bpb_whole: float | None = None
    val_loss_best: float | None = None
    val_bpb_best: float | None = None
    best_step: int | None = None
    train_loss: float | None = None
    tokens_per_s: float | None = None
    peak_memory_bytes: float | None = None
    other_runs: int | None = None
    steps: int = 0
    tokens: int | None = None
    sample: str = ""
