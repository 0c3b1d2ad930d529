"""How often Hydra composes a config: as rarely as possible, because each time takes longer than all checks of a run."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import Gptx
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from in_process import run_here

from gptx.config import composition
from gptx.config.compose import compose, initialised
from gptx.config.overrides import conf_dir


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The overrides of every config that Hydra composes."""
    compose()  # the default config, once in a process
    found: list[tuple[str, ...]] = []
    compose_config = Hydra.compose_config

    def counted(self: Hydra, config_name: str, overrides: list[str], **keywords: Any) -> Any:
        found.append(tuple(overrides))
        return compose_config(self, config_name=config_name, overrides=overrides, **keywords)

    monkeypatch.setattr(Hydra, "compose_config", counted)
    return found


def test_hydra_composes_the_config_of_a_run_once(gptx: Gptx, composed: list[tuple[str, ...]]) -> None:
    assert run_here(gptx, *gptx.tiny, "attention=gqa", "model.n_layer=2", "dry_run=true").code == 0
    assert len(composed) == 1 and "attention=gqa" in composed[0]


def test_hydra_composes_no_config_of_options_of_gptx(composed: list[tuple[str, ...]]) -> None:
    assert compose(["attention=gqa", "pos=alibi", "trainer.max_steps=3"]).trainer.max_steps == 3
    assert composed == []


def test_hydra_composes_a_study_once(composed: list[tuple[str, ...]]) -> None:
    """Its schema is that of the options that it chooses."""
    assert compose(["experiment=pos_ablation"]).study == "pos_ablation"
    assert len(composed) == 1


def test_study_with_hydras_mode_of_a_sweep_is_swept(gptx: Gptx) -> None:
    (gptx.cwd / "own" / "experiment").mkdir(parents=True)
    (gptx.cwd / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1,2'}}}\n"
    )
    place = ["--config-dir", str(gptx.cwd / "own"), *gptx.tiny, "experiment=mine", "dry_run=true"]
    done = run_here(gptx, *place)
    assert done.code == 0 and "3 combinations: 3 to run" in done.out, done


def test_default_config_is_composed_again_when_its_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(conf_dir(), conf)
    monkeypatch.setattr(composition, "conf_dir", lambda: conf)
    with initialize_config_dir(str(conf), version_base="1.3"), initialised():
        before = composition.default_composition()
        before.config.trainer.max_steps = 3  # of this copy alone
        assert composition.default_composition().config.trainer.max_steps == before.schema["trainer"]["max_steps"]
        file = conf / "optim" / "adamw.yaml"
        file.write_text(file.read_text().replace("weight_decay: 0.1", "weight_decay: 0.25"))
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
        assert composition.default_composition().config.optim.weight_decay == 0.25 != before.config.optim.weight_decay
