"""The studies in experiments/: each states its question and its cost, and has a small size."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import DEADLINE, ROOT, Gptx
from composed import composed
from omegaconf import DictConfig

from gptx.config.compose import compose
from gptx.config.expectations import parse_expectations, parse_pairs
from gptx.config.identity import identity
from gptx.errors import ConfigError
from gptx.model.build import build
from gptx.model.cost import Cost, cost
from gptx.sweep.plan.matching import Matched, match_budgets
from gptx.training.preflight import preflight

STUDIES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
SMALL = sorted(path.stem for path in (ROOT / "experiments/smoke").glob("*.yaml"))
WITHOUT_SMALL_SIZE = {"nanogpt_shakespeare_cpu"}  # takes two minutes at full size


def file(name: str) -> dict[str, Any]:
    """The YAML of a study. The YAML of smoke/NAME is merged over that of NAME, as in its defaults list."""
    found: dict[str, Any] = yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text())
    if name.startswith("smoke/"):
        full = file(name.removeprefix("smoke/"))
        grid(full).update(grid(found) if "hydra" in found else {})
        return {**full, **found, "hydra": full["hydra"]}
    return found


def grid(study: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = study["hydra"]["sweeper"]["params"]
    return found


def seeds(name: str) -> int:
    return len(grid(file(name))["seed"].split(","))


@dataclass(frozen=True)
class Arm:
    """One combination without its seed; ``runs``: its seeds, and those that try learning rates."""

    cfg: DictConfig
    cost: Cost
    runs: int

    @property
    def tokens(self) -> int:
        return int(self.cfg.trainer.max_steps * self.cfg.trainer.batch_size * self.cfg.model.context)


def combinations(name: str) -> list[list[str]]:
    """The overrides of every arm."""
    values = {key: values.split(",") for key, values in grid(file(name)).items() if key != "seed"}
    pairs = [[f"{key}={value}" for value in values[key]] for key in values]
    return [list(overrides) for overrides in product(*pairs)]


@cache
def arms(name: str) -> list[Arm]:
    return [_arm(name, overrides) for overrides in combinations(name)]


def _arm(name: str, overrides: list[str]) -> Arm:
    cfg = composed(f"experiment={name}", "device=cpu", *overrides)
    with torch.device("meta"):
        price = cost(build(cfg, 65 if cfg.variant.tokenizer == "char" else 257), torch.bfloat16)
    return Arm(cfg, price, seeds(name) + len(cfg.sweep.lr) * cfg.sweep.lr_seeds)


def runs(name: str) -> int:
    return sum(arm.runs for arm in arms(name))


def flops(name: str) -> float:
    return sum(float(arm.tokens * arm.cost.flops_per_token * arm.runs) for arm in arms(name))


def budget(name: str) -> tuple[str, str]:
    """Runs and PFLOP, as the comment at the top of the file states them."""
    head = (ROOT / f"experiments/{name}.yaml").read_text()
    [found] = re.findall(r"# Budget:  (\d+) runs of .*, ([\d.]+) PFLOP: ", head)
    return found  # type: ignore[no-any-return]


def marked(names: list[str]) -> list[Any]:
    """Studies with many arms take long to compose."""
    return [pytest.param(name, marks=[pytest.mark.full] if len(combinations(name)) > 6 else []) for name in names]


def test_every_study_has_a_small_size() -> None:
    assert set(SMALL) == set(STUDIES) - WITHOUT_SMALL_SIZE and len(SMALL) >= 9


@pytest.mark.parametrize("name", STUDIES)
def test_study_states_question_expectation_and_paper(name: str) -> None:
    study = file(name)
    assert study["study"] == name
    optional = {"expect", "baseline", "margin", "answer"}
    assert {"question", "expected", "paper"} <= set(study["about"]) <= {"question", "expected", "paper"} | optional
    assert all(study["about"].values())
    assert study["about"]["question"].count("?") == 1
    assert re.search(r"(19|20)\d\d", study["about"]["paper"]), "the paper has no year"
    assert seeds(name) == 3


@pytest.mark.parametrize("name", STUDIES)
def test_study_answers_its_question_at_its_end(name: str) -> None:
    """By comparisons of arms that its grid has, or by naming what answers it."""
    about, values = file(name)["about"], {k: v.split(",") for k, v in grid(file(name)).items()}
    assert bool(about.get("expect")) != bool(about.get("answer"))
    for expectation in (one for line in about.get("expect", ()) for one in parse_expectations(line)):
        for key, value in (*expectation.arm.items(), *expectation.other.items()):
            assert value in values[key], expectation
    for key, value in parse_pairs(about["baseline"]).items() if "baseline" in about else ():
        assert value in values[key]


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("pos=rope", "about.expect='pos=rope': expected such as 'pos=rope < pos=learned'"),
        ("rope < pos=learned", "'rope' names no arm; expected key=value"),
        ("pos=rope < attention=mha", "both sides need the same keys and other values"),
        ("pos=rope ~ pos=rope", "both sides need the same keys and other values"),
    ],
)
def test_wrong_expectation_is_rejected(value: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([f"about.expect=['{value}']"])
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_every_arm_of_one_side_is_compared_with_every_arm_of_the_other() -> None:
    found = [str(one) for one in parse_expectations("pos=rope,xpos < pos=none,learned")]
    assert found == [f"pos={a} < pos={b}" for a in ("rope", "xpos") for b in ("none", "learned")]


@pytest.mark.parametrize("name", marked(STUDIES))
def test_study_cost_equals_the_comment_in_its_file(name: str) -> None:
    assert budget(name) == (str(runs(name)), f"{flops(name) / 1e15:.2g}")
    for arm in arms(name):
        assert arm.cfg.study == name and arm.cfg.about.question


@pytest.mark.parametrize("name", marked(STUDIES))
def test_study_without_m_is_one_of_its_arms(name: str) -> None:
    """Without -m the grid does not count, and the file's own values are a run of the study."""
    single = identity(composed(f"experiment={name}", "device=cpu"), "")
    assert single in {identity(arm.cfg, "") for arm in arms(name)}


@pytest.mark.full
@pytest.mark.parametrize("name", SMALL)
def test_small_size_is_cheap_and_has_its_own_folder(name: str) -> None:
    small = f"smoke/{name}"
    assert runs(small) <= 40 and flops(small) < 1e13, "more than a minute or two on two cores"
    assert flops(small) < float(budget(name)[1]) * 2e13, "costs more than 2 % of the study"
    for arm in arms(small):
        assert arm.cfg.study == f"{name}-smoke" and arm.tokens <= 1e6 and arm.cfg.trainer.val_tokens <= 20_000
        assert {key: arm.cfg.about[key] for key in file(name)["about"]} == file(name)["about"]
    assert set(grid(file(small))) == set(grid(file(name)))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


def check(arm: Arm, tokens: Path) -> None:
    cfg = arm.cfg.copy()
    cfg.paths.data = str(tokens)
    assert preflight(cfg).facts.n_params == arm.cost.n_params


@pytest.mark.parametrize("name", SMALL)
def test_last_arm_of_a_small_size_is_accepted(name: str, tokens: Path) -> None:
    check(_arm(f"smoke/{name}", combinations(f"smoke/{name}")[-1]), tokens)


@pytest.mark.full
@pytest.mark.parametrize("name", SMALL)
def test_no_arm_of_a_small_size_is_rejected(name: str, tokens: Path) -> None:
    for arm in arms(f"smoke/{name}"):
        check(arm, tokens)


MATCHED = [name for name in STUDIES if "params" in str(file(name)["defaults"])]


@pytest.mark.parametrize("name", marked(MATCHED))
def test_arms_can_be_matched(name: str) -> None:
    cfgs = [arm.cfg for arm in arms(name)]
    for cfg, found in zip(cfgs, match_budgets(cfgs, cfgs[0]), strict=True):
        assert isinstance(found, Matched) and abs(found.size / found.target - 1) <= cfg.match.tolerance, found


def rows() -> Iterator[str]:
    for name in STUDIES:
        about = file(name)["about"]
        shown = f"{math.prod(len(v.split(',')) for k, v in grid(file(name)).items() if k != 'seed')} x {seeds(name)}"
        rates = len(file(name).get("sweep", {}).get("lr", []))
        shown += f" x {rates} rates" if rates else ""
        yield f"| `{name}` | {about['question']} | {shown} | {budget(name)[1]} | {about['paper']} |"


def test_docs_show_every_study() -> None:
    table = (
        (ROOT / "docs/studies.md").read_text().partition("<!-- studies -->\n")[2].partition("\n<!-- /studies -->")[0]
    )
    assert table.splitlines()[2:] == list(rows())


@pytest.mark.full
@pytest.mark.parametrize("name", ["window_ablation", "strategy_equivalence", "scaling"])
def test_small_study_runs(name: str, gptx: Gptx) -> None:
    """With seed 0 and a twentieth of the steps; scaling keeps its steps, because they are its arms."""
    shorter = [] if name == "scaling" else ["trainer.max_steps=10"]
    words = ["-m", f"experiment=smoke/{name}", "tracking=off", "device=cpu", "seed=0", *shorter]
    done = gptx.run("gptx.run", *words, timeout=3 * DEADLINE)
    assert done.code == 0, done.err
    assert {path.parent.name for path in gptx.folders()} == {f"{name}-smoke"}
    assert len(gptx.folders()) == len(arms(f"smoke/{name}"))
    if name == "scaling":
        fitted = gptx.run("gptx.compare.scaling", str(gptx.outputs / "scaling-smoke"), "--svg", "law.svg")
        assert fitted.code == 0 and "best N ~ C^" in fitted.out, fitted.err
        assert (gptx.cwd / "law.svg").exists()
