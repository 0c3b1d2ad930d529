"""README.md and docs/: size, links, and commands that compose."""

import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from command import ROOT
from composed import COMPOSITIONS
from documented import generated_table

from gptx.config.compose import compose

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "launch" / "README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:python -m gptx\.run|gptx run|gptx sweep)((?: +(?:'[^']*'|[^\s`'\\]+))+)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_has_a_target(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_readme_is_short_and_links_to_every_page() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_bytes()) <= 8192
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(readme.read_text())}
    assert set((ROOT / "docs").glob("*.md")) <= linked


def overrides_of(page: Path) -> set[tuple[str, ...]]:
    """The overrides of each run or sweep command on a page. Commands with placeholders in capitals and those with a
    user's own options are left out."""
    found = set()
    for command in COMMAND.findall(page.read_text().replace("\\\n", " ")):
        given = [word for word in shlex.split(command, comments=True) if not word.startswith("-")]
        parsed = tuple(word for word in given if re.match(r"[\w./@]+=", word))
        placeholder = any(re.search(r"=.*\b[A-Z]{2,}", word) or "..." in word or "…" in word for word in parsed)
        if parsed and not placeholder and "--config-dir" not in command:
            found.add(parsed)
    return found


def cells(overrides: tuple[str, ...]) -> list[list[str]]:
    """One override list for each combination of comma-separated values. Hydra's own keys are left out."""
    choices = [
        [f"{word.partition('=')[0]}={value}" for value in word.partition("=")[2].split(",")]
        if not re.search(r"[\[({']", word)
        else [word]
        for word in overrides
        if not word.startswith("hydra") and not re.search(r"=(tag|interval|range|choice)\(", word)
    ]
    return [list(cell) for cell in product(*choices)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_overrides_compose(page: Path) -> None:
    for overrides in overrides_of(page):
        for cell in cells(overrides)[:4]:
            compose(cell, COMPOSITIONS)


def test_documented_overrides_are_found() -> None:
    assert ("attention=gqa", "pos=rope", "strategy=ddp") in overrides_of(ROOT / "README.md")
    assert sum(len(overrides_of(page)) for page in PAGES) >= 8


@pytest.mark.full
def test_lines_of_a_training_step_are_those_of_the_command() -> None:
    command = [sys.executable, "-m", "benchmarks.step_lines", "device=cpu", "precision=bf16"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shown = generated_table("docs/architecture.md", "step").removeprefix("```text\n").removesuffix("\n```")
    assert shown == done.stdout.rstrip()
