"""The comparison: run folders in, tables, files and warnings out, through the real command line."""

import contextlib
import fcntl
import json
import math
import os
import random
import statistics
import subprocess
import sys
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from command import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gptx.compare.__main__ import main as compare_main
from gptx.compare.formatting import figure
from gptx.compare.render import show, warnings
from gptx.compare.run_rows import read_rows
from gptx.compare.summary import summarise
from gptx.errors import GptxError
from gptx.runs.metrics import BY_KEY, METRICS

AXES = {"attention": "mha", "pos": "rope", "window": "full", "strategy": "single", "model": "nano"}
AXES |= {"data": "sotu", "tokenizer": "byte", "precision": "fp32"}
FIGURES: dict[str, Any] = {"val_loss": 1.4, "val_bpb": 2.02, "n_params": 820_000, "tokens_per_s": 41_000.0}
FIGURES |= {"peak_memory_bytes": 612_000_000, "kv_bytes_per_token": 4096, "flops_per_token": 5_060_000}
FIGURES |= {"val_accuracy": 0.57, "val_perplexity": 4.06, "train_loss": 1.3, "seconds": 100.0}
CPU = {"device": "cpu", "cpu": "AMD EPYC", "cores": 2, "memory_bytes": 8_000_000_000}


def result(seed: int = 0, keys: dict[str, Any] | None = None, study: str = "grid", **over: Any) -> dict[str, Any]:
    """A result.json: ``over`` sets axes and fields, ``keys`` config keys as {"group": {key: value}}."""
    variant = AXES | {k: over.pop(k) for k in list(over) if k in AXES}
    config: dict[str, Any] = {
        "seed": seed,
        "data_seed": seed,
        "study": study,
        "tracking": {"uri": f"u{seed}"},
    }
    config |= {
        "attention": {"_target_": f"gptx.{variant['attention']}", "n_kv_head": len(variant["attention"])},
        "model": {"n_layer": 4},
        "data": {"path": f"/somewhere/{seed}"},
        "optim": {"lr": 1e-3},
    }
    for group, values in (keys or {}).items():
        config[group] = {**config.get(group, {}), **values}
    facts = {
        "steps": 500,
        "tokens": 4_096_000,
        "corpus_hash": "9f8e7d6c5b4a",
        "tokenizer_hash": "b",
        "hardware": CPU,
    }
    name = "·".join([variant["attention"], variant["pos"], variant["window"], variant["strategy"], f"s{seed}"])
    head = {"status": "finished", "uid": "u", "identity": "i", "name": name, "study": study}
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[variant["precision"]]
    return {**head, "dtype": dtype, "variant": variant, "seed": seed, "config": config, **FIGURES, **facts, **over}


def put(root: Path, given: dict[str, Any], journal: list[dict[str, Any]] | None = None, name: str = "") -> Path:
    folder = root / given["study"] / (name or f"{given['name']}-{len(list(root.glob('*/*'))):04d}")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(given), encoding="utf-8")
    (folder / "journal.jsonl").write_text("".join(json.dumps(r) + "\n" for r in journal or []), encoding="utf-8")
    return folder


def started(given: dict[str, Any]) -> list[dict[str, Any]]:
    keep = ("uid", "identity", "name", "study", "variant", "seed", "config", "hardware", "n_params")
    data = {"name": "sotu", "corpus_hash": given["corpus_hash"], "tokenizer_hash": given["tokenizer_hash"]}
    values = {"val/loss": 1.9, "val/bpb": 2.7, "train/loss": 1.8, "perf/tokens_per_s": 40_000.0}
    start = {"t": 1, "kind": "start", **{key: given[key] for key in keep}, "data": data}
    return [start, {"t": 2, "kind": "metrics", "step": 100, "values": values}]


def unfinished(root: Path, status: str, **over: Any) -> Path:
    """A folder whose journal ends in ``status``; running and killed have no end record."""
    given = result(**over)
    end = {"t": 3, "kind": "end", "status": status, "step": 100, "error": "x", "result": {}}
    folder = put(root, given, started(given) + ([end] if status in ("failed", "interrupted") else []))
    (folder / "result.json").unlink()
    return folder


def grid(root: Path, seeds: tuple[int, ...] = (0, 1)) -> Path:
    rng = random.Random(0)
    for attention, pos, window, seed in product(("mha", "gqa"), ("learned", "rope"), ("full", "sliding"), seeds):
        bpb = 2.0 + 0.1 * (pos == "learned") + 0.02 * (attention == "gqa") + 0.01 * (window == "sliding")
        bpb += rng.gauss(0, 1e-3)
        kv = {"mha": 4096, "gqa": 2048}[attention]
        axes = {"attention": attention, "pos": pos, "window": window}
        put(root, result(seed, **axes, val_bpb=bpb, val_loss=bpb * math.log(2), kv_bytes_per_token=kv))
    return root


def cli(*args: object, width: int = 160, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in this process."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS=str(width)),
        contextlib.chdir(cwd or "."),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = compare_main(list(map(str, args)))
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def warnings_of(*runs: Path) -> str:
    rows = read_rows(runs)
    return "\n".join(warnings(rows, summarise(rows)))


# --- the command


def test_command_shows_variants_best_first_and_writes_raw_numbers(tmp_path: Path) -> None:
    grid(tmp_path / "outputs")
    env = {**os.environ, "COLUMNS": "160", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    command = [sys.executable, "-W", "error", "-m", "gptx.compare"]
    command += ["--csv", "a.csv", "--json", "a.json", "--svg", "a.svg"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("mha", "gqa"))]
    assert [row[:5] for row in rows[:2]] == [
        ["mha", "rope", "full", "single", "2"],
        ["mha", "rope", "sliding", "single", "2"],
    ]
    assert len(rows) == 8 and "8 variants, 16 runs" in done.stdout and "n_kv_head" not in done.stdout
    output = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    raw = pd.read_csv(tmp_path / "a.csv")
    summary = summarise(read_rows(sorted((tmp_path / "outputs/grid").iterdir())))
    assert [v["val_bpb_mean"] for v in output["variants"]] == list(raw["val_bpb_mean"]) == list(summary["val_bpb_mean"])
    assert [v["val_bpb_sd"] for v in output["variants"]] == list(raw["val_bpb_sd"])
    assert output["variants"][0]["seeds"] == [0, 1] and len(output["variants"][0]["runs"]) == 2
    assert all((tmp_path / run / "result.json").exists() for v in output["variants"] for run in v["runs"])
    assert output["runs"] == {"finished": 16} and output["warnings"] == []
    assert "gptx.compare outputs" in (tmp_path / "a.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.json", "a.svg", "outputs"]


@pytest.mark.parametrize("width", [44, 60, 80, 100, 160])
def test_every_width_shows_all_figures(tmp_path: Path, width: int) -> None:
    grid(tmp_path)
    out = cli(tmp_path, width=width).stdout
    assert max(map(len, out.splitlines())) <= width and "…" not in out
    for cell in ("4.10 kB", "2.05 kB", "820k", "41.0k", "612 MB", "5.06M", "learned", "sliding"):
        assert out.count(cell) >= 4, cell
    for value in summarise(read_rows((tmp_path / "grid").iterdir()))["val_bpb_mean"]:
        assert f"{value:.4f}" in out


def test_long_names_are_folded(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path, result(0, keys={"optim": {"a_really_long_name_of_an_option": f"{'value' * 9}{i}"}}))
    out = "".join(cli(tmp_path, width=80).stdout.split())
    assert "4.10kB" in out and "…" not in out and "optim.a_really_long_name" in out


def test_best_is_bold_and_ties_of_all_are_not(tmp_path: Path) -> None:
    put(tmp_path, result(val_bpb=2.0, tokens_per_s=1000.0))
    put(tmp_path, result(val_bpb=2.1, tokens_per_s=2000.0, attention="gqa"))
    console = Console(file=StringIO(), force_terminal=True, width=160, color_system="standard", highlight=False)
    show([tmp_path], console)
    text = console.file.getvalue().replace(" ", "")  # type: ignore[attr-defined]
    assert "\x1b[1;32m2.0000" in text and "\x1b[1;32m2.1000" not in text
    assert "\x1b[1;32m2.00k" in text and "\x1b[1;32m820k" not in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], ["nowhere does not exist"]),
        (["empty"], ["no finished run in empty", "no runs", "gptx run trains one"]),
        (["broken"], ["no finished run", "1 failed, 1 killed"]),
        (["good", "--sort", "val_bpd"], ["val_bpd", "did you mean val_bpb?", "tokens_per_s", "attention"]),
        (["good", "--study", "gird"], ["gird", "did you mean grid?"]),
        (["good", "--csv", "no/such/a.csv"], ["--csv", "no/such does not exist"]),
        (["good", "--json", "good"], ["--json", "folder"]),
        (["good", "--jsno", "x"], ["--jsno", "--help"]),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(tmp_path: Path, args: list[str], words: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    unfinished(tmp_path / "broken", "failed")
    unfinished(tmp_path / "broken", "killed", seed=1)
    put(tmp_path / "good", result())
    done = cli(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_unfinished_runs_are_counted_and_never_mixed_in(tmp_path: Path) -> None:
    put(tmp_path, result(0))
    for seed, status in enumerate(("failed", "interrupted", "killed", "running"), 1):
        folder = unfinished(tmp_path, status, seed=seed)
    with open(folder / "run.lock", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = cli(tmp_path)
        extra = cli(tmp_path, "--include-unfinished", "--json", tmp_path / "x.json")
    assert "not in the table: 1 failed, 1 interrupted, 1 killed, 1 running" in done.stdout
    assert "1 variant, 1 run " in done.stdout and "2.7000" not in done.stdout
    output = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["variants"]
    assert output[0]["status"] == "finished" and output[0]["val_bpb_mean"] == 2.02 and output[0]["n"] == 1
    assert {v["status"] for v in output[1:]} == {"failed", "interrupted", "killed", "running"}
    assert all(v["val_bpb_mean"] == 2.7 and v["steps"] == [100] for v in output[1:])
    assert "running" in extra.stdout and "2.7000" in extra.stdout


def test_result_is_taken_from_the_journal_and_damage_is_named(tmp_path: Path) -> None:
    whole = result(1, val_bpb=1.5)
    end = {"t": 3, "kind": "end", "status": "finished", "step": 500, "error": None, "result": whole}
    lost = put(tmp_path, whole, [*started(whole), end])
    (lost / "result.json").unlink()
    torn = put(tmp_path, result(2), [*started(result(2)), {**end, "result": result(2, val_bpb=1.7)}])
    gone = put(tmp_path, result(3))
    for folder in (torn, gone):
        (folder / "result.json").write_bytes(b'{"status": "fini\xff')
    done = cli(tmp_path, "--json", tmp_path / "x.json", width=400)
    output = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert done.returncode == 0 and output["variants"][0]["seeds"] == [1, 2]
    assert output["variants"][0]["val_bpb_mean"] == statistics.mean([1.5, 1.7])
    assert f"{gone / 'result.json'} is damaged" in done.stdout and "not in the table: 1 damaged" in done.stdout
    assert f"{torn / 'result.json'} is damaged" in done.stdout and "read from the journal" in done.stdout


def test_study_and_sort(tmp_path: Path) -> None:
    put(tmp_path, result(study="one", attention="gqa", tokens_per_s=10.0, val_bpb=1.0))
    put(tmp_path, result(study="one", attention="mha", tokens_per_s=20.0, val_bpb=2.0))
    put(tmp_path, result(study="two", attention="mqa", val_bpb=0.5))
    out = cli(tmp_path, "--study", "one", "--sort", "tokens_per_s").stdout
    assert "mqa" not in out and out.index("mha") < out.index("gqa")
    out = cli(tmp_path, "--study", "one", "--sort", "attention").stdout
    assert out.index("gqa") < out.index("mha")


# --- the aggregation


@settings(max_examples=25)
@given(st.lists(st.floats(0.1, 1e12), min_size=1, max_size=6), st.randoms())
def test_mean_and_deviation_do_not_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], rng: random.Random
) -> None:
    root = tmp_path_factory.mktemp("runs")
    runs = [put(root, result(seed, **{m.key: value for m in METRICS})) for seed, value in enumerate(values)]
    summary = summarise(read_rows(runs))
    rng.shuffle(runs)
    pd.testing.assert_frame_equal(summary, summarise(read_rows(runs)))
    assert list(summary["n"]) == [len(values)] and summary["seeds"][0] == list(range(len(values)))
    for metric in METRICS:
        assert summary[f"{metric.key}_mean"][0] == statistics.mean(values)
        sd = summary[f"{metric.key}_sd"][0]
        assert sd == statistics.stdev(values) if len(values) > 1 else math.isnan(sd)


def test_only_differing_keys_are_named(tmp_path: Path) -> None:
    put(tmp_path, result(attention="mha"))
    put(tmp_path, result(attention="mqax", keys={"model": {"n_layer": 6}, "attention": {"n_layer": 6}}))
    put(tmp_path, result(attention="mqax", keys={"attention": {"n_layer": 4}}))
    runs = sorted((tmp_path / "grid").iterdir())
    names = list(summarise(read_rows(runs)).columns)
    assert names[: names.index("n")] == [
        "attention",
        "pos",
        "window",
        "strategy",
        "model.n_layer",
        "attention.n_layer",
    ]
    every = list(summarise(read_rows(runs), all_keys=True).columns)
    assert {"attention._target_", "attention.n_kv_head"} <= set(every)


def test_a_copied_key_is_named_once_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    for width in (64, 128):
        put(tmp_path, result(keys={"model": {"d_model": width}, "attention": {"d_model": width}}))
    put(tmp_path, result(window="sliding", keys={"window": {"size": 32}}))
    put(tmp_path, result(window="sliding", keys={"window": {"size": 16}}))
    summary = summarise(read_rows((tmp_path / "grid").iterdir()))
    names = list(summary.columns)
    assert names[4 : names.index("n")] == ["model.d_model", "window.size"]
    assert set(summary["window.size"]) == {None, 16, 32} and "32.0" not in cli(tmp_path).stdout


def test_missing_or_infinite_figures_are_not_averaged(tmp_path: Path) -> None:
    runs = [put(tmp_path, result(0, val_loss=math.nan, peak_memory_bytes=None)), put(tmp_path, result(1))]
    summary = summarise(read_rows(runs))
    assert summary["val_loss_mean"][0] == 1.4 and math.isnan(summary["val_loss_sd"][0]) and summary["n"][0] == 2
    assert "val loss is missing in 1 of 2 runs" in warnings_of(*runs)
    assert warnings_of(put(tmp_path, result(2, attention="gqa", val_accuracy=None))) == ""


# --- the warnings


def test_comparable_runs_give_no_warning(tmp_path: Path) -> None:
    assert warnings_of(*(grid(tmp_path) / "grid").iterdir()) == ""


@pytest.mark.parametrize(
    ("over", "warning"),
    [
        ({"steps": 200}, "different budgets: steps 200, 500"),
        ({"tokens": 1_000_000}, "different budgets: tokens 1,000,000, 4,096,000"),
        ({"seed": 1}, "different seeds: 0 in mha·rope·full·single; 1 in gqa·rope·full·single"),
        ({"tokenizer_hash": "c"}, "different tokenizers"),
        ({"hardware": {**CPU, "cpu": "Xeon"}}, "tokens/s is not comparable"),
        ({"hardware": {"device": "cuda"}}, "tokens/s and peak memory are not comparable"),
        ({"keys": {"trainer": {"val_tokens": 1}}}, "different validation sets (trainer.val_tokens)"),
        ({"code": {"mine": "a", "other": "a"}}, "different code: mine was changed between runs (1 and 1 of them)"),
        (
            {"validation": 2},
            "different definitions of validation metrics: in 1 run ",
        ),
        ({"corpus_hash": "abcdef"}, "different corpora (sotu 9f8e7d6c, sotu abcdef)"),
    ],
)
def test_incomparable_runs_give_a_warning(tmp_path: Path, over: dict[str, Any], warning: str) -> None:
    runs = [put(tmp_path, result(code={"mine": "b"})), put(tmp_path, result(**{"attention": "gqa", **over}))]
    assert warning in warnings_of(*runs)
    assert warning[:40] in " ".join(cli(tmp_path, width=300).stdout.split())


def test_each_corpus_has_its_own_table(tmp_path: Path) -> None:
    for corpus, data in (("aaaa", "sotu"), ("bbbb", "pydocs")):
        for attention in ("mha", "gqa"):
            put(tmp_path, result(attention=attention, corpus_hash=corpus, data=data))
    out = cli(tmp_path).stdout
    assert out.count("val loss") == 2 and "sotu · aaaa" in out and "pydocs · bbbb" in out


@pytest.mark.parametrize(
    ("precision", "loss", "warned"),
    [
        ("fp32", 1.4 * 1.002, True),
        ("fp32", 1.4 * 1.0005, False),
        ("bf16", 1.4 * 1.005, False),
        ("bf16", 1.5, True),
    ],
)
def test_warns_when_strategies_end_with_different_losses(
    tmp_path: Path, precision: str, loss: float, warned: bool
) -> None:
    runs = [
        put(tmp_path, result(precision=precision)),
        put(tmp_path, result(precision=precision, strategy="ddp", val_loss=loss)),
        put(tmp_path, result(precision=precision, strategy="ddp", seed=1, val_loss=9.0)),  # no partner, no verdict
    ]
    text = warnings_of(*runs)
    assert ("this indicates a bug" in text) == warned
    assert not warned or ("ddp ends" in text and "above single (mha·rope·full, seed 0: " in text)


def test_strategies_may_differ_with_dropout(tmp_path: Path) -> None:
    keys = {"model": {"dropout": 0.1}}
    runs = [put(tmp_path, result(keys=keys)), put(tmp_path, result(keys=keys, strategy="ddp", val_loss=1.5))]
    assert "this indicates a bug" not in warnings_of(*runs)


def test_a_repeated_run_is_not_a_second_seed(tmp_path: Path) -> None:
    old = put(tmp_path, result(0, val_bpb=9.0))
    new = put(tmp_path, result(0, study="again", val_bpb=2.0))
    os.utime(old / "result.json", (1, 1))
    summary = summarise(read_rows([old, new, new, tmp_path / "again" / ".." / "again" / new.name]))
    assert list(summary["n"]) == [1] and list(summary["val_bpb_mean"]) == [2.0]
    assert "1 run left out" in warnings_of(old, new)


# --- the Python side


def test_show_reports_damaged_runs(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=80)
    assert show([tmp_path / "never made", unfinished(tmp_path, "failed")], console).empty
    assert "1 failed, 1 missing" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(GptxError, match="did you mean val_loss"):
        show([put(tmp_path, result())], console, sort="loss")


def test_figures_have_the_digits_of_their_metric() -> None:
    assert figure(BY_KEY["val_loss"], 1.23456) == "1.2346"


def test_compare_imports_neither_torch_nor_mlflow() -> None:
    code = "import sys, gptx.compare.__main__; sys.exit(bool({'torch', 'mlflow'} & set(sys.modules)))"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
