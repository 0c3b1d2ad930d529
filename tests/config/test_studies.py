"""The studies as they lie in experiments/: each says what it asks, costs what it says, and has a small size."""

import math
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import Gptx
from omegaconf import DictConfig

import gptx
from gptx.config.identity import identity
from gptx.model.build import build
from gptx.model.cost import Cost, cost
from gptx.sweep.plan.matching import Matched, match_budgets
from gptx.training.preflight import preflight

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
SMALL = sorted(path.stem for path in (ROOT / "experiments/smoke").glob("*.yaml"))
IN_MINUTES_ANYWAY = {"nanogpt_shakespeare_cpu"}


def file(name: str) -> dict[str, Any]:
    """The YAML; of smoke/NAME laid over that of NAME, as its defaults list says."""
    found: dict[str, Any] = yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text())
    if name.startswith("smoke/"):
        whole = file(name.removeprefix("smoke/"))
        grid(whole).update(grid(found) if "hydra" in found else {})
        return {**whole, **found, "hydra": whole["hydra"]}
    return found


def grid(study: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = study["hydra"]["sweeper"]["params"]
    return found


def seeds(name: str) -> int:
    return len(grid(file(name))["seed"].split(","))


@cache
def arms(name: str) -> dict[str, tuple[DictConfig, Cost, int]]:
    """Config, cost and runs (of seed and rate) of each combination but for its seed."""
    params = {key: values.split(",") for key, values in grid(file(name)).items() if key != "seed"}
    found = {}
    for values in product(*params.values()):
        words = [f"{key}={value}" for key, value in zip(params, values, strict=True)]
        cfg = gptx.compose([f"experiment={name}", "device=cpu", *words])
        with torch.device("meta"):
            price = cost(build(cfg, 65 if cfg.variant.tokenizer == "char" else 257), torch.bfloat16)
        found[" ".join(words)] = (cfg, price, seeds(name) * max(1, len(cfg.sweep.lr)))
    return found


def tokens(cfg: DictConfig) -> int:
    return int(cfg.trainer.max_steps * cfg.trainer.batch_size * cfg.model.context)


def runs(name: str) -> int:
    return sum(times for _, _, times in arms(name).values())


def flops(name: str) -> float:
    return sum(float(tokens(cfg) * price.flops_per_token * times) for cfg, price, times in arms(name).values())


def budget(name: str) -> tuple[str, str]:
    """Runs and PFLOP, as the head of the file has them."""
    head = (ROOT / f"experiments/{name}.yaml").read_text()
    [found] = re.findall(r"# Budget:  (\d+) runs of .*, ([\d.]+) PFLOP: ", head)
    return found  # type: ignore[no-any-return]


def large(names: list[str]) -> list[Any]:
    """Each takes as long to compose as it has arms."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name == "full_factorial" else []) for name in names]


def test_each_has_a_small_size() -> None:
    assert set(SMALL) == set(STUDIES) - IN_MINUTES_ANYWAY and len(SMALL) >= 9


@pytest.mark.parametrize("name", STUDIES)
def test_each_says_what_it_asks(name: str) -> None:
    study = file(name)
    assert study["study"] == name
    assert set(study["about"]) == {"question", "expected", "paper"} and all(study["about"].values())
    assert study["about"]["question"].count("?") == 1
    assert re.search(r"(19|20)\d\d", study["about"]["paper"]), "of which year is it?"
    assert seeds(name) == 3


@pytest.mark.parametrize("name", large(STUDIES))
def test_every_combination_can_be_built_and_costs_what_its_file_says(name: str) -> None:
    assert budget(name) == (str(runs(name)), f"{flops(name) / 1e15:.2g}")
    for cfg, _, _ in arms(name).values():
        assert cfg.study == name and cfg.about.question


@pytest.mark.parametrize("name", large(STUDIES))
def test_alone_it_is_one_of_its_arms(name: str) -> None:
    """Without -m the grid does not count: the values of the file are a run of the study, then."""
    alone = identity(gptx.compose([f"experiment={name}", "device=cpu"]), "")
    assert alone in {identity(cfg, "") for cfg, _, _ in arms(name).values()}


@pytest.mark.parametrize("name", large(SMALL))
def test_small_sizes_are_small_and_stand_apart(name: str) -> None:
    small = f"smoke/{name}"
    assert runs(small) <= 40 and flops(small) < 1e13, "a minute or two of two cores, besides the starts"
    assert flops(small) < float(budget(name)[1]) * 1e13, "a hundredth"
    for cfg, _, _ in arms(small).values():
        assert cfg.study == f"{name}-smoke" and tokens(cfg) <= 1e6 and cfg.trainer.val_tokens <= 20_000
        assert dict(cfg.about) == file(name)["about"]
    assert set(grid(file(small))) == set(grid(file(name)))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.mark.parametrize("name", large(SMALL))
def test_nothing_of_a_small_size_is_refused(name: str, texts: Path) -> None:
    for cfg, price, _ in arms(f"smoke/{name}").values():
        cfg.paths.data = str(texts)
        assert preflight(cfg).facts.n_params == price.n_params


MATCHED = [name for name in STUDIES if "params" in str(file(name)["defaults"])]


@pytest.mark.parametrize("name", large(MATCHED))
def test_arms_that_are_to_be_matched_can_be(name: str) -> None:
    cfgs = [cfg for cfg, _, _ in arms(name).values()]
    for cfg, fit in zip(cfgs, match_budgets(cfgs, cfgs[0]), strict=True):
        assert isinstance(fit, Matched) and abs(fit.relative_difference) <= cfg.match.tolerance, fit


def rows() -> Iterator[str]:
    for name in STUDIES:
        about = file(name)["about"]
        shown = f"{math.prod(len(v.split(',')) for k, v in grid(file(name)).items() if k != 'seed')} x {seeds(name)}"
        rates = len(file(name).get("sweep", {}).get("lr", []))
        shown += f" x {rates} rates" if rates else ""
        yield f"| `{name}` | {about['question']} | {shown} | {budget(name)[1]} | {about['paper']} |"


def test_the_readme_shows_them_all() -> None:
    table = (
        (ROOT / "docs/studies.md").read_text().partition("<!-- studies -->\n")[2].partition("\n<!-- /studies -->")[0]
    )
    assert table.splitlines()[2:] == list(rows())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["window_ablation", "strategy_equivalence", "scaling"])
def test_a_small_study_runs(name: str, gptx: Gptx) -> None:
    """In seed 0 and a twentieth of the steps, but for scaling, whose steps are its arms."""
    shorter = [] if name == "scaling" else ["trainer.max_steps=10"]
    done = gptx.run("gptx.run", "-m", f"experiment=smoke/{name}", "tracking=off", "device=cpu", "seed=0", *shorter)
    assert done.code == 0, done.err
    assert {path.parent.name for path in gptx.folders()} == {f"{name}-smoke"}
    assert len(gptx.folders()) == len(arms(f"smoke/{name}"))
    if name == "scaling":
        fitted = gptx.run("gptx.compare.scaling", str(gptx.outputs / "scaling-smoke"), "--svg", "law.svg")
        assert fitted.code == 0 and "best N ~ C^" in fitted.out, fitted.err
        assert (gptx.cwd / "law.svg").exists()
