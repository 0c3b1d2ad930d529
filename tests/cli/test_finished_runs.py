"""Commands that read finished runs: generate, compare and sync."""

import json
import shutil
from pathlib import Path

import pytest
from command import DEADLINE, Gptx, one_line
from conftest import Trained
from fake_runs import contents, database, rows_of, uid_of
from warm import WarmParent

from gptx.generate import main as generate


def generated(trained: Trained, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert generate([str(trained.folder), "--tokens", "60", *words]) == 0
    return capsys.readouterr().out


def test_generate_depends_on_seed_only(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ("--prompt", "The state")
    first = generated(trained, capsys, *prompt, "--seed", "1")
    assert first.startswith("The state") and len(first) > 40
    assert generated(trained, capsys, *prompt, "--seed", "1") == first
    assert generated(trained, capsys, *prompt, "--seed", "2") != first
    greedy = generated(trained, capsys, *prompt, "--temperature", "0")
    assert generated(trained, capsys, *prompt, "--temperature", "0", "--seed", "5") == greedy
    assert generated(trained, capsys, *prompt, "--temperature", "1e-50", "--seed", "5") == greedy
    assert generated(trained, capsys, *prompt, "--top-k", "1", "--seed", "5") == greedy
    assert generated(trained, capsys, *prompt, "--top-p", "1e-9", "--seed", "5") == greedy


def test_generate_is_equal_with_and_without_cache(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ("--prompt", "The state of the union is", "--seed", "3")  # longer than the context, too
    assert generated(trained, capsys, *prompt) == generated(trained, capsys, *prompt, "--no-cache")


def test_generate_stops_at_a_string_of_several_bytes(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    complete = generated(trained, capsys, "--prompt", "x", "--seed", "4").removesuffix("\n")
    stop, later = complete[9:12], complete[14:16]
    cut = generated(trained, capsys, "--prompt", "x", "--seed", "4", "--stop", later, "--stop", stop)
    assert cut.removesuffix("\n") == complete[: min(complete.index(text, 1) for text in (stop, later))]


def test_generate_streams_tokens(trained: Trained) -> None:
    """The first tokens are printed before the last is computed: this text would take days."""
    words = [str(trained.folder), "--prompt", "The state", "--tokens", "1000000000"]
    process = trained.gptx.popen("gptx.generate", *words)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(100).startswith("The state")
    process.stdout.close()  # as `| head` does
    assert process.wait(DEADLINE) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere"], "nowhere does not exist; expected the folder of a run"),
        (["RUN", "--temperature", "-1"], "--temperature >= 0"),
        (["RUN", "--tokens", "0"], "--tokens >= 1"),
        (["RUN", "--temperature", "nan"], "a finite --temperature >= 0"),
        (["RUN", "--temperature", "inf"], "a finite --temperature >= 0"),
        (["RUN", "--seed", "9" * 20], "of at most 64 bits"),
        (["RUN", "--prompt", "\udce9"], "--prompt and --stop: expected text"),
        (["RUN", "--stop", ""], "--stop '': expected a text of one character or more"),
        (["RUN", "--tokens", "x"], "argument --tokens: invalid int value: 'x'"),
        (["RUN", "--temprature", "1"], "--temprature 1; gptx generate --help lists"),
        (["EMPTY"], "is not a config of gptx"),
    ],
    ids=lambda value: str(value),
)
def test_generate_reports_mistakes_in_one_line(
    words: list[str], part: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("")
    places = {"RUN": str(trained.folder), "EMPTY": str(tmp_path)}
    code = generate([places.get(word, word) for word in words])
    shown = capsys.readouterr()
    assert code == 2
    [line] = shown.err.splitlines()
    assert part in line and shown.out == ""


def test_generate_without_a_run_is_rejected_without_torch(gptx: Gptx, without_torch: WarmParent) -> None:
    one_line(gptx.run("gptx.generate", "nowhere"), "nowhere does not exist", "expected the folder of a run")


def test_compare_shows_a_row_for_each_variant(trained: Trained, ddp: Gptx, tmp_path: Path) -> None:
    paths = [str(trained.gptx.outputs), str(ddp.outputs)]
    done = trained.gptx.run(
        "gptx.compare", *paths, "--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")
    )
    assert done.code == 0, done.err
    variants = json.loads((tmp_path / "a.json").read_text())["variants"]
    assert sorted(row["strategy"] for row in variants) == ["ddp", "single"]
    for row in variants:
        assert row["val_loss_mean"] == pytest.approx(
            json.loads((trained.folder / "result.json").read_text())["val_loss"]
        )
    assert "ddp" in done.out and "single" in done.out
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3


@pytest.mark.full
def test_sync_twice_writes_each_row_once(trained: Trained, ddp: Gptx, gptx: Gptx) -> None:
    """Runs that were trained without tracking are written to MLflow later."""
    for source in (trained.folder, ddp.folder):
        shutil.copytree(source, gptx.outputs / "default" / source.name)
    seen = []
    for new in (True, False):
        done = gptx.run("gptx.sync", "outputs/")
        assert done.code == 0, done.err
        assert "2 of 2 runs" in done.out and (", 0 new" in done.out) == (not new)
        seen.append([contents(database(gptx.outputs), uid_of(folder)) for folder in gptx.folders()])
    assert seen[0] == seen[1]
    for found, folder in zip(seen[0], gptx.folders(), strict=True):
        rows = [(key, step, t) for key, _, _, t, step in found["metrics"] if not key.startswith("final/")]
        assert sorted(rows) == sorted(rows_of(folder))
        assert (found["status"], found["models"]) == ("FINISHED", [(1,)])
