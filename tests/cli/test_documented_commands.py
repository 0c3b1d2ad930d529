"""Every command in README.md and docs/, in a ```bash block, in a table or within a sentence, is run as it is written,
with small budgets from outside.

A command is run by its words, as a shell would pass them. Names in capitals are replaced by real files (`Shop.names`),
and `BUDGETS` replaces or adds what decides how long a run takes. `NOT_RUN` lists the others with the reason.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import ROOT, Gptx
from conftest import Maker
from documented import FEW_STEPS, files

from gptx.config.overrides import key_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "launch" / "README.md"]
# What limits a run. A key that the command gives itself is replaced only if it is one of REPLACED.
BUDGETS = (*FEW_STEPS, "device=cpu", "precision=fp32", "runtime.threads=1", "trainer.batch_size=8")
REPLACED = ("trainer.max_steps", "data.max_tokens")
BUDGETS_OF_SWEEPS = {"hydra/sweeper=optuna": ["hydra.sweeper.n_trials=2"]}
NOT_RUN = {
    "python3 -m venv": "creates an environment; .ci/run does it",
    ". .venv/bin/activate": "belongs to the line before",
    "pip install": "needs a package index; .ci/run does it",
    "python -m pip": "needs the files of the next command",
    "benchmarks/gpu_wheels.sh": "needs a package index",
    "python -m benchmarks.gpu": "needs a GPU; test_gpu_benchmark.py runs it on a CPU",
    "python -m pytest": "would run these tests",
    "torchrun": "needs two machines; test_run_with_strategies.py runs it with two nodes on one",
    "gptx sweep attention=mha,gqa seed=0,1,2 hydra/launcher=slurm": "needs a cluster; test_slurm.py has one",
    "gptx sweep seed=0,1 hydra/launcher=slurm": "needs a cluster; test_slurm.py has one",
    "gptx sweep status": "is about the sweep of a cluster; test_slurm.py and test_status.py run it",
    "gptx sweep collect": "is about the sweep of a cluster; test_slurm.py and test_status.py run it",
    "gptx sweep cancel": "is about the sweep of a cluster; test_slurm.py and test_status.py run it",
    "apt-get": "needs a package index",
    "eval": "starts a cluster as root; test_slurm.py does it",
    "launch/testcluster": "stops a cluster; test_slurm.py does it",
    "gptx new": "test_new.py runs it for each axis",
    "gptx prove attention=mine": "needs the files of the command before; test_new.py proves its templates",
    "gptx prove kernel=mine": "needs the files of the command before; test_new.py proves its templates",
    "gptx run resume_from=": "needs a run of the same sizes; test_resume.py runs it with the path as it is printed",
    "gptx sweep attention=mha,gqa,mqa sweep.seeds=auto": "takes up to 60 runs; test_auto_seeds.py runs smaller ones",
    "gptx sweep list": "test_status.py runs it with sweeps; without any it ends with a message",
    "gptx sweep experiment=": "test_studies.py runs each study",
    "python -m gptx.run -m experiment=": "test_studies.py runs each study",
    "python -m gptx.compare.scaling": "needs the study; test_scaling.py runs it",
    "python -m gptx.variants --markdown": "test_variants_table.py compares its output with the page",
    "python -m benchmarks.": "measures this machine for minutes; the tests of benchmarks/ run parts of it",
}
# second tier: several runs, many proofs, or MLflow
SLOW = ("-m attention=mha", "sweep attention=", "hydra/sweeper=optuna", "gptx.prove", "gptx sync", "strategy=ddp")
INLINE = re.compile(r"(?<!`)`((?:gptx [a-z]+|python -m (?:gptx|benchmarks)[\w.]*) [^`]+)`")


@dataclass(frozen=True)
class Command:
    """A command of a page, as text of the shell."""

    page: Path
    text: str

    @property
    def reason(self) -> str:
        """Why it is not run; "": it is."""
        return next((why for start, why in NOT_RUN.items() if self.text.startswith(start)), "")


def commands() -> Iterator[Command]:
    """The commands of all ```bash blocks, without comments; those that && joins are separate. Then those within
    sentences and tables that have arguments, without what is optional, and without forms such as ``gptx run ...``."""
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                for text in re.sub(r"\s+#.*", "", line).split(" && "):
                    yield Command(page, text.strip())
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for found in INLINE.findall(text):
            command = re.sub(r" \[[^\]]*\]", "", " ".join(found.split()))
            if (
                " " in command.removesuffix(" -m").removeprefix("python -m ")
                and "..." not in command
                and "NAME " not in f"{command} ".replace("AXIS NAME", "")
            ):
                yield Command(page, command)


@dataclass(frozen=True)
class Shop:
    """The folder in which all commands run, with the files that they name, and the runs of one outputs folder."""

    gptx: Gptx
    names: dict[str, str]

    def run(self, command: Command) -> None:
        written = self.words(command)
        own = any(word in ("--trust", "--trust-code", "--config-dir") for word in written)
        names = self.names if own else self.names | {"RUN_DIR": self.names["PLAIN_RUN"]}
        given = [re.sub("|".join(names), lambda found: names[found[0]], word) for word in written]
        module, *words = [
            "table.svg" if one == "--svg" else word for one, word in zip(["", *written[:-1]], given, strict=True)
        ]
        trains = module in ("gptx.run", "gptx.sweep") and not {"--help", "--cfg"} & set(words)
        done = self.gptx.run(module, *(self.with_budgets(words) if trains else words))
        assert done.code == 0, f"{command.page.name}: {command.text}\n{done.err}"

    @staticmethod
    def words(command: Command) -> list[str]:
        """The module and its arguments."""
        name, *words = shlex.split(command.text)
        if name == "gptx":
            return [f"gptx.{words[0]}", *words[1:]]
        assert (name, words[0]) == ("python", "-m"), command.text
        return words[1:]

    def with_budgets(self, words: list[str]) -> list[str]:
        keys = {key_of(word) for word in words}
        kept = [word for word in words if key_of(word) not in REPLACED]
        budgets = [word for word in BUDGETS if key_of(word) in REPLACED or key_of(word) not in keys]
        data = [] if "data" in keys else [word for word in self.gptx.tiny if word.startswith("data")]
        for_sweep = [extra for word in words for extra in BUDGETS_OF_SWEEPS.get(word, [])]
        return [*kept, *budgets, *data, *for_sweep]


@pytest.fixture(scope="module")
def shop(make: Maker, corpus: Path) -> Shop:
    gptx = make("shop")
    for page in ("README.md", "docs/extending.md"):
        for name, content in files(page).items():
            (gptx.cwd / name).parent.mkdir(parents=True, exist_ok=True)
            (gptx.cwd / name).write_text(content)
    variant = re.findall(r"```(?:python|yaml)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (gptx.cwd / "my_windows.py").write_text(next(text for text in variant if "class LogSparse" in text))
    (gptx.cwd / "own" / "window").mkdir()
    (gptx.cwd / "own/window/logsparse.yaml").write_text(
        next(text for text in variant if "my_windows.LogSparse" in text)
    )
    shutil.copytree(ROOT / "docs", gptx.cwd / "docs")
    text = corpus.read_text()
    (gptx.cwd / "books" / "old").mkdir(parents=True)
    (gptx.cwd / "books" / "old" / "one.txt").write_text(text)
    (gptx.cwd / "rows").mkdir()
    (gptx.cwd / "rows" / "rows.jsonl").write_text("".join(json.dumps({"body": text[:3000]}) + "\n" for _ in range(20)))
    (gptx.cwd / "hub").mkdir()
    (gptx.cwd / "hub" / "train.jsonl").write_text("".join(json.dumps({"text": text[:3000]}) + "\n" for _ in range(400)))
    code = re.findall(r"```python\n(import numpy.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    [ids] = code
    (gptx.cwd / "make_ids.py").write_text(ids)
    assert gptx.run("make_ids", PYTHONPATH=str(gptx.cwd)).code == 0
    trained = gptx.run("gptx.run", *Shop(gptx, {}).with_budgets(["--config-dir", "own", "window=logsparse"]))
    assert trained.code == 0, trained.err
    own = gptx.folder
    assert gptx.run("gptx.run", *Shop(gptx, {}).with_budgets([])).code == 0
    [plain] = set(gptx.folders()) - {own}
    return Shop(
        gptx, {"RUN_DIR": str(own), "PLAIN_RUN": str(plain), "FILE": str(corpus), "FOLDER": "rows", "OWNER/NAME": "hub"}
    )


ALL = list({one.text: one for one in commands()}.values())
RUN = [one for one in ALL if not one.reason]


@pytest.mark.parametrize(
    "command",
    [pytest.param(one, id=one.text, marks=[pytest.mark.full] * any(part in one.text for part in SLOW)) for one in RUN],
)
def test_command_runs_as_written(command: Command, shop: Shop) -> None:
    shop.run(command)


def test_every_command_is_run_or_has_a_reason() -> None:
    assert len(RUN) >= 20
    for start in NOT_RUN:
        assert any(one.text.startswith(start) for one in ALL), f"no page has the command {start}"
    assert {one.text for one in RUN} >= {"python -m gptx.run", "gptx generate RUN_DIR --trust my_windows"}
