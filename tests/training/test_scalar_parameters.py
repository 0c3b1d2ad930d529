"""Parameters of 0 dimensions in a user's part: trained, validated, saved, resumed; refused where they cannot be."""

from pathlib import Path

import pytest
import torch
from command import Gptx, one_line
from torch import Tensor

from gptx.training.best_weights import load_best, save_best
from gptx.training.comparison import compare_tensors

CODE = """
import torch
from torch import nn

from gptx.attention.gqa import GQA


class Gain(GQA):
    tp = {**GQA.tp, "gain": "shared"}

    def __init__(self, shape):
        super().__init__(shape, n_kv_head=shape.n_head, qk_norm=False, softcap=0.0, bias=shape.bias)
        self.gain = nn.Parameter(torch.tensor(1.0))

    def project(self, x, view):
        q, k, v = super().project(x, view)
        return q, k, v * self.gain
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --config-dir with the option attention=gain."""
    folder = tmp_path_factory.mktemp("scalar parameters")
    (folder / "attention").mkdir()
    (folder / "attention/gain.yaml").write_text("_target_: gain_attention.Gain\n")
    (folder / "gain_attention.py").write_text(CODE)
    return folder


def test_scalar_parameter_trains_resumes_and_is_certified(own: Path, gptx: Gptx) -> None:
    words = ("--config-dir", str(own), "attention=gain")
    done = gptx(*words, "trainer.max_steps=20")
    assert done.code == 0, done.err
    weights, _ = load_best(gptx.folder / "checkpoints")
    [gain] = [weight for name, weight in weights.items() if name.endswith("gain")]
    assert gain.shape == () and gain != 1.0
    done = gptx.run("gptx.certify", str(gptx.folder), "--from", "10", "--config-dir", str(own))
    assert done.code == 0, done.out + done.err


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["ddp", "tp", "pp"])
def test_scalar_parameter_trains_in_two_processes(strategy: str, own: Path, gptx: Gptx) -> None:
    losses = []
    for name in ("single", strategy):
        words = ("--config-dir", str(own), "attention=gain", f"strategy={name}", "model.n_layer=2", "model.dropout=0")
        done = gptx(*words, "trainer.max_steps=10")
        assert done.code == 0, done.err
    for folder in gptx.folders():
        weights, _ = load_best(folder / "checkpoints")
        losses.append([float(weight) for key, weight in sorted(weights.items()) if key.endswith("gain")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("strategy", ["fsdp", "hsdp", "fsdp_tp", "cp"])
def test_strategies_that_shard_weights_name_the_parameter(strategy: str, own: Path, gptx: Gptx) -> None:
    done = gptx("--config-dir", str(own), "attention=gain", f"strategy={strategy}")
    one_line(done, f"strategy={strategy} cannot shard blocks.0.attention.gain", "torch.ones(1)", "strategy=ddp")


def test_best_weights_of_all_shapes_are_restored(tmp_path: Path) -> None:
    weights: dict[str, Tensor] = {"a": torch.tensor(2.0), "b": torch.ones(3), "c": torch.eye(2).bfloat16()}
    weights["d"] = torch.tensor(0.5).bfloat16()
    save_best(tmp_path, 3, weights, {"val_loss": 1.0})
    assert compare_tensors(weights, load_best(tmp_path)[0], 3).differ == 0


def test_difference_of_scalars_is_reported() -> None:
    one, other = ({"gain": torch.tensor(value)} for value in (1.0, 2.0))
    assert compare_tensors(one, other, 1).largest == pytest.approx(0.5)
