"""A saved config with one damaged value is answered in one line, and no absurd model is built."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import one_line
from conftest import Trained
from hypothesis import given, settings
from hypothesis import strategies as st

import gptx as api
from gptx.config.compose import compose
from gptx.config.overrides import conf_dir, options
from gptx.config.plain_dict import flat, plain_dict
from gptx.config.saved_config import load_config
from gptx.config.saved_schema import _group
from gptx.errors import GptxError
from gptx.runs.folder import RunFolder
from gptx.training.repeat_training import certify

NUMBERS = [0, -1, 3, 10**9, 10**15, 10**30, 0.5, -0.0, 1e-40, 1e300, float("nan"), float("inf")]
DAMAGES = [None, True, "abc", "", "10", [], [1, "a"], {}, {"a": 1}, {"_target_": "os.system"}, *NUMBERS]
REMOVED = object()


@pytest.fixture(scope="module")
def run(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run."""
    folder = tmp_path_factory.mktemp("damaged") / "outputs/default/run"
    shutil.copytree(trained.folder, folder)
    return folder


@pytest.fixture
def config(run: Path) -> Iterator[dict[str, Any]]:
    """The config of the run, which is restored after the test."""
    text = (run / "config.yaml").read_text()
    yield yaml.safe_load(text)
    (run / "config.yaml").write_text(text)


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    """Set or remove a dotted key."""
    *groups, name = key.split(".")
    holder = config
    for group in groups:
        holder = holder[group]
    if value is REMOVED:
        del holder[name]
    else:
        holder[name] = value


def one_line_error(work: Callable[[], object]) -> str:
    """The text of the error of some work, which must be meant for the user; "" if there is none."""
    try:
        work()
    except GptxError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


@pytest.fixture(scope="module")
def keys(run: Path) -> list[str]:
    return [key for key, _ in flat(yaml.safe_load((run / "config.yaml").read_text()))]


@given(st.data())
@settings(max_examples=60)
def test_damaged_value_is_one_line_for_load(run: Path, keys: list[str], data: st.DataObject) -> None:
    text = (run / "config.yaml").read_text()
    config, key = yaml.safe_load(text), data.draw(st.sampled_from(keys))
    set_key(config, key, data.draw(st.sampled_from([REMOVED, *DAMAGES])))
    try:
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        one_line_error(lambda: api.load(run, device="cpu"))
    finally:
        (run / "config.yaml").write_text(text)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.n_layer", "abc", "model.n_layer='abc': expected a whole number"),
        ("model.n_layer", [4], "model.n_layer=[4]: expected a whole number"),
        ("model.n_layer", None, "model.n_layer=None: expected a whole number"),
        ("model.n_layer", 10**9, "model.n_layer=1000000000: expected less than 2^12"),
        ("model.context", 10**9, "model.context=1000000000: expected less than 2^24"),
        ("model.d_model", 10**6, "the weights are of another model: embed.weight: its shape in the file is (257, 16)"),
        ("model.d_model", 10**9, "config.yaml: the parts cannot be made from it: "),
        ("model", 3, "model=3: expected a group of keys"),
        ("tokenizer", [], "tokenizer=[]: expected a group of keys"),
        ("model.n_layer", REMOVED, "model.n_layer is missing"),
        ("model.more", 1, "unknown key 'model.more'"),
        ("attention.n_kv_head", {"a": 1}, "attention.n_kv_head={'a': 1}: expected a whole number"),
        ("optim.lr", "fast", "optim.lr='fast': expected a number"),
        ("optim.betas", 3, "optim.betas=3: expected a list"),
        ("data.path", [3.5, None], "data.path[1]=None: expected text"),
        ("seed", -1, "seed=-1: expected at least 0"),
        ("runtime.keep", "all", "runtime.keep='all': expected a whole number"),
        ("variant", 3, "variant=3: expected a group of keys"),
        ("variant.kernel", 3, "expected the name of an option for each axis"),
        ("tracking", "on", "tracking='on': expected a group of keys"),
        ("trainer.max_steps", REMOVED, "trainer.max_steps is missing"),
    ],
)
def test_message_names_key_value_and_what_is_expected(
    run: Path, config: dict[str, Any], key: str, value: Any, expected: str
) -> None:
    set_key(config, key, value)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert expected in one_line_error(lambda: api.load(run, device="cpu"))


def test_keys_that_decide_nothing_may_be_missing_or_unknown(run: Path, config: dict[str, Any]) -> None:
    for group in ("runtime", "sweep", "about", "tracking"):
        config[group].popitem()
    config["runtime"]["former"] = config["former"] = 3
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    api.load(run, device="cpu")
    assert load_config(run).runtime.until == 0


@pytest.mark.full
@given(st.data())
@settings(max_examples=25)
def test_damaged_value_is_one_line_for_certify(run: Path, keys: list[str], data: st.DataObject) -> None:
    text = (run / "config.yaml").read_text()
    config, key = yaml.safe_load(text), data.draw(st.sampled_from(keys))
    set_key(config, key, data.draw(st.sampled_from([REMOVED, *DAMAGES])))
    try:
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        with RunFolder(run).lock():
            one_line_error(lambda: certify(RunFolder(run)))
    finally:
        (run / "config.yaml").write_text(text)


def test_config_that_is_not_that_of_the_journal_is_not_certified(
    run: Path, config: dict[str, Any], trained: Trained
) -> None:
    set_key(config, "trainer.batch_size", 10**12)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    one_line(trained.gptx.run("gptx.certify", str(run)), "trainer.batch_size=1000000000000", "journal.jsonl", "8")


@pytest.mark.parametrize("axis", ["attention", "pos", "window", "ffn", "optim", "data", "tokenizer", "strategy"])
def test_options_of_one_class_have_the_same_keys(axis: str) -> None:
    """A saved config does not say for certain which option it was made with; the class decides its keys."""
    kinds: dict[str, set[str]] = {}
    for option in options(axis):
        group = _group(axis, option)
        kinds.setdefault(group["_target_"], set()).add(str({k: type(v) for k, v in sorted(group.items())}))
    assert len(kinds) > 1 or len(options(axis)) == 1
    assert {target: found for target, found in kinds.items() if len(found) > 1} == {}


@pytest.mark.full
def test_every_option_is_read_again_as_it_was_saved(tmp_path: Path) -> None:
    for path in sorted(conf_dir().glob("*/*.yaml")):
        axis = path.parent.name
        if axis in ("hydra", "match"):
            continue
        plain = plain_dict(
            compose(
                [f"{axis}={path.stem}", *(["data.path=x"] if axis == "data" and path.stem in ("text", "ids") else [])]
            )
        )
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
        assert plain_dict(load_config(tmp_path)) == plain


@pytest.mark.parametrize("command", ["gptx.generate", "gptx.certify"])
def test_commands_print_one_line(run: Path, config: dict[str, Any], trained: Trained, command: str) -> None:
    set_key(config, "model.n_layer", "abc")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    one_line(trained.gptx.run(command, str(run)), "config.yaml is not a config of gptx: model.n_layer='abc'")


@given(st.data())
@settings(max_examples=40)
def test_damaged_value_of_a_journal_is_one_line(run: Path, data: st.DataObject) -> None:
    """For the commands that read the journal or the result: compare, sync, ui and resume_from."""
    from gptx.compare.run_rows import read_rows
    from gptx.runs import resume_source

    journal = (run / "journal.jsonl").read_text()
    lines = [json.loads(line) for line in journal.splitlines()]
    line = data.draw(st.sampled_from(lines))
    set_key(line, data.draw(st.sampled_from([key for key, _ in flat(line)])), data.draw(st.sampled_from(DAMAGES)))
    result = (run / "result.json").read_text()
    try:
        (run / "journal.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        (run / "result.json").unlink()
        one_line_error(lambda: read_rows([run]))
        one_line_error(lambda: resume_source.find.__wrapped__(str(run)))
    finally:
        (run / "journal.jsonl").write_text(journal)
        (run / "result.json").write_text(result)
