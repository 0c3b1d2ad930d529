"""The `tp` tables of attentions and feed-forward networks: those of gptx are right, and a mistake is one line."""

from typing import Any

import pytest
import torch
from helpers_model import arm, model_of, options
from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.errors import ConfigError
from gptx.ffn.base import FFN
from gptx.geometry.side_losses import SideLosses
from gptx.strategy.tp import TP, tp_table_error


class Table(FFN):
    """A feed-forward network with a table of the test."""

    def __init__(self, table: dict[str, str]) -> None:
        super().__init__()
        self.tp = table  # type: ignore[misc]
        self.up, self.out, self.norm = nn.Linear(4, 8), nn.Linear(8, 4), nn.LayerNorm(4)
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, side: SideLosses) -> Tensor:
        return x


class Whole(Attention):
    """An attention that declares no tensor parallelism."""

    def forward(self, x: Tensor, view: Any, keep: Any) -> Tensor:
        return x


@pytest.mark.parametrize("axis", ["attention", "ffn"])
def test_tables_of_gptx_name_modules(axis: str) -> None:
    for option in options(axis):
        block: Any = model_of(arm(**{axis: option})).blocks[0]
        assert tp_table_error(getattr(block, axis)) == "", option


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"up": "col", "out": "row", "gain": "shared", "norm": "replicated"}, ""),
        ({"in": "col"}, "'in', which is not the name of a child module"),
        ({"gain": "replicated"}, "'gain', which is not the name of a child module"),
        ({"up": "column"}, "'up': 'column', expected one of col, row, replicated, shared"),
        ({"norm": "row"}, "'norm': 'row', which is possible for an nn.Linear only"),
        ({"": "col"}, "0 dimensions cannot be split"),
    ],
)
def test_mistake_in_a_table(table: dict[str, str], expected: str) -> None:
    found = tp_table_error(Table(table))
    assert expected in found and bool(expected) == bool(found)


@pytest.mark.parametrize("count", [1, 2])
def test_attention_without_a_table_is_refused_by_name(count: int) -> None:
    model = model_of(arm())
    for block in model.blocks:
        block.attention = Whole()
    with pytest.raises(ConfigError) as error:
        TP(nproc=count, timeout=60, restarts=0).check(model, count, None)  # type: ignore[arg-type]
    assert "strategy=tp cannot split attention=test_tp_tables.Whole" in str(error.value)
    assert "declares no tensor parallelism, the attributes tp and kv_heads" in str(error.value)
