"""Fixtures of the command-line tests: a corpus that is tokenised once, the command, and finished runs."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from command import Done, Gptx, environment, words
from hypothesis import HealthCheck, settings
from warm import WarmParent

from gptx.data.text import Text
from gptx.data.tokens import prepare
from gptx.tokenizer.byte import Byte

# Tests run side by side: an idle OpenMP thread must not keep a core busy. Commands that the tests start inherit this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No test depends on the speed of the machine.
settings.register_profile("gptx", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gptx")

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "is",
    "for",
    "it",
    "be",
    "as",
    "with",
    "by",
    "this",
    "was",
    "are",
    "not",
    "have",
    "his",
    "they",
    "which",
    "all",
    "from",
    "but",
    "had",
    "government",
    "people",
    "state",
    "union",
    "congress",
    "country",
    "law",
    "peace",
    "war",
    "nation",
    "power",
    "citizens",
    "public",
    "great",
    "world",
    "every",
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The models of the tests are so small that several threads only make them slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 kB of random English-like sentences, always the same."""
    rng = random.Random(0)
    sentences = [" ".join(rng.choices(WORDS, k=rng.randint(4, 12))).capitalize() for _ in range(1200)]
    path = tmp_path_factory.mktemp("corpus") / "speech.txt"
    path.write_text(". ".join(sentences) + ".\n")
    return path


Maker = Callable[[str], Gptx]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[Maker]:
    """A function that creates the command in a new folder. Its processes are ended with the session."""
    tokens = tmp_path_factory.mktemp("tokens")
    prepare(Text(path=[str(corpus)], text_key="text", val_fraction=0.1, max_tokens=0), Byte(), tokens, quiet=True)
    made: list[Gptx] = []
    warm = WarmParent(environment())

    def one(name: str) -> Gptx:
        made.append(Gptx(tmp_path_factory.mktemp(name), corpus, tokens, warm))
        return made[-1]

    yield one
    for gptx in made:
        gptx.close()
    warm.close()


@pytest.fixture(scope="session")
def reference(make: Maker) -> Callable[..., Path]:
    """A function that returns the folder of an undisturbed run."""
    made: dict[tuple[str, float], Path] = {}

    def one(strategy: str, dropout: float = 0.1) -> Path:
        if (strategy, dropout) not in made:
            gptx = make(f"reference-{strategy}-{dropout}")
            done = gptx(*words(strategy, dropout))
            assert done.code == 0, done.err
            made[strategy, dropout] = gptx.folder
        return made[strategy, dropout]

    return one


@pytest.fixture
def gptx(make: Maker) -> Iterator[Gptx]:
    """The command in its own empty folder. A test that leaves a process running fails."""
    made = make("run")
    yield made
    left = made.orphans()
    made.close()
    assert left == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many combinations of variants passed every proof (see test_variants.py)."""
    properties = [dict(report.user_properties) for report in terminalreporter.stats.get("passed", [])]
    for groups, count in sorted(Counter(one["proven"] for one in properties if "proven" in one).items()):
        kernels = sum(int(str(one["kernels"])) for one in properties if one.get("proven") == groups)
        axes = str(groups).replace("-", " x ")
        terminalreporter.write_line(
            f"proven: {count} combinations of {axes}, {kernels} with each kernel that serves them"
        )


@dataclass(frozen=True)
class Trained:
    """A finished tiny run, for reading only."""

    gptx: Gptx
    done: Done

    @property
    def folder(self) -> Path:
        return self.gptx.folder


@pytest.fixture(scope="session")
def ddp(make: Maker) -> Gptx:
    """The tiny run on two processes."""
    gptx = make("ddp")
    done = gptx("strategy=ddp")
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    return gptx


@pytest.fixture(scope="session")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmParent]:
    """Starts commands in which importing torch or mlflow is an error."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Forbidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name not in ('torch', 'mlflow', 'datasets', 'transformers'), f'{name} was imported'\n"
        "sys.meta_path.insert(0, Forbidden())\n"
    )
    path = os.pathsep.join([str(folder), environment()["PYTHONPATH"]])
    parent = WarmParent(environment() | {"PYTHONPATH": path}, ("gptx.config.command", "gptx.training.run_lifecycle"))
    yield parent
    parent.close()


@pytest.fixture(scope="session")
def trained(make: Maker) -> Trained:
    """The tiny run, in a folder with spaces in its name."""
    gptx = make("a folder with spaces")
    return Trained(gptx, gptx())
