"""compile=true where torch cannot compile: one line, before anything is trained or tokenised."""

import shutil

import pytest
from command import DEADLINE, Done, Gptx, one_line

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, to take it away")


def cold(gptx: Gptx, *overrides: str) -> Done:
    """The tiny run without a compiler in a new interpreter: torch reads CXX when it is imported."""
    process = gptx.start_cold(*overrides, CXX="/no/such/compiler")
    out, err = process.communicate(timeout=DEADLINE)
    return Done(process.returncode, out, err)


def test_missing_compiler_is_one_line(gptx: Gptx) -> None:
    missing = cold(gptx, "compile=true")
    one_line(missing, "compile=true needs a C++ compiler", "/no/such/compiler", "compile=false")
    assert not gptx.folders()


def test_path_with_a_space_is_one_line(gptx: Gptx) -> None:
    folder = gptx.cwd / "a b"
    one_line(
        gptx("compile=true", TORCHINDUCTOR_CACHE_DIR=str(folder)), "cannot use a path with a space", "compile=false"
    )
    assert not gptx.folders()


@pytest.mark.full
def test_sweep_names_it_before_anything_runs(gptx: Gptx) -> None:
    done = cold(gptx, "-m", "compile=true,false", "dry_run=true")
    assert done.code == 2
    assert "compile=true needs a C++ compiler" in " ".join((done.out + done.err).split())


@pytest.mark.full
def test_other_runs_need_no_compiler(gptx: Gptx) -> None:
    assert cold(gptx, "trainer.max_steps=1").code == 0
