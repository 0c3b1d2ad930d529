"""The metric by which arms are compared, and its margin."""

from collections.abc import Sequence

from gptx.compare.comparable_arms import BITS_OF_ALL_TEXT, same_text
from gptx.compare.run_rows import RunRow
from gptx.compare.study_about import StudyAbout
from gptx.errors import GptxError
from gptx.runs.metrics import BY_KEY, METRICS, Metric


def chosen_metric(key: str, rows: Sequence[RunRow]) -> Metric:
    """The metric with this key; "": the validation loss, or bits per byte of all text if the tokenizers differ.

    Raises:
        GptxError: there is no such metric, or it does not vary between seeds.
    """
    varying = [metric.key for metric in METRICS if not metric.exact]
    if not key:
        several = len({row.result.tokenizer_hash for row in rows}) > 1
        return BITS_OF_ALL_TEXT if several and same_text(rows) else BY_KEY["val_loss"]
    if key not in BY_KEY:
        raise GptxError(f"no metric {key!r}; choose from {', '.join(varying)}")
    if BY_KEY[key].exact:
        raise GptxError(f"{key} follows from the config, so it needs no interval; choose from {', '.join(varying)}")
    return BY_KEY[key]


def chosen_margin(given: float | None, metric: Metric, study: StudyAbout) -> float:
    """The given margin, in the unit of tables; or else that of the study, or of the metric."""
    if given is not None:
        return given / metric.scale
    return study.margin if is_val_loss(metric) and study.margin is not None else metric.margin


def is_val_loss(metric: Metric) -> bool:
    """Whether a metric is the validation loss or another view of it, to which a study's margin and expectations
    apply."""
    return metric.key in ("val_loss", f"val_loss_{metric.view}")
