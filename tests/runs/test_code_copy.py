"""The copy of the user's own modules in a run folder: what it has, and that it runs only once it is trusted."""

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import OWN, ROOT, Gptx, one_line
from conftest import Maker

import gptx as api
from gptx.errors import ConfigError
from gptx.runs import code_copy
from gptx.runs.code_copy import CODE, copied, import_from_copy, save_copy
from gptx.runs.provenance import own_code, source_hash

MODULES = {
    "user_window.py": "import user_helper\nfrom userpack import size\nfrom gptx.window.full import Full\n"
    "class Wide(Full):\n    note = user_helper.NOTE, size.SIZE\n",
    "user_helper.py": "import json\nNOTE = 'as it was'\n",
    "user_other.py": "raise SystemExit('imported')\n",
    "userpack/__init__.py": "",
    "userpack/size.py": "from . import inner\nSIZE = inner.SIZE\n",
    "userpack/inner/__init__.py": "SIZE = 3\n",
    "spaced/part.py": "from . import beside\nVALUE = beside.VALUE\n",
    "spaced/beside.py": "from .lower.deep import DEEP\nVALUE = DEEP\n",
    "spaced/lower/deep.py": "import spaced.last\nfrom ..last import LAST\nDEEP = LAST\n",
    "spaced/last.py": "LAST = 4\n",
}
LOWER = ("spaced.lower.deep", "spaced.last")
NAMES = ("user_window", "user_helper", "userpack", "spaced")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's on the Python path, whose modules are imported."""
    folder = tmp_path / "project"
    for name, text in MODULES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    finders = list(sys.meta_path)
    for name in ("user_window", "spaced.part"):
        importlib.import_module(name)
    yield folder
    forget()
    sys.meta_path[:] = finders


def forget() -> None:
    """Remove the user's modules from this process, as if it had just started."""
    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def run(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, str]]:
    """A run folder with a copy, and the recorded hashes. The modules are no longer on the Python path."""
    folder = tmp_path / "run"
    folder.mkdir()
    assert save_copy(folder, ["user_window", "spaced.part"]) == ""
    recorded = own_code()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(source)])
    forget()
    return folder, recorded


def test_copy_has_the_named_modules_and_those_that_they_import(run: tuple[Path, dict[str, str]]) -> None:
    folder, recorded = run
    files = {str(path.relative_to(folder / CODE)) for path in folder.rglob("*") if path.is_file()}
    assert files == set(MODULES) - {"user_other.py"}
    assert {name: source_hash(path) for name, path in copied(folder, recorded).items()} == {
        name: recorded[name]
        for name in ("user_window", "user_helper", "userpack", "spaced.part", "spaced.beside", *LOWER)
    }


def test_trusted_copy_is_imported_and_nothing_is_added_to_the_path(run: tuple[Path, dict[str, str]]) -> None:
    folder, recorded = run
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("user_window")
    before = list(sys.path)
    names = import_from_copy(folder, recorded)
    assert {"user_window", "user_helper", "userpack"} <= set(names) and sys.path == before
    module = importlib.import_module("user_window")
    assert module.Wide.note == ("as it was", 3)
    assert module.__file__ == str(folder / CODE / "user_window.py")
    assert importlib.import_module("spaced.part").VALUE == 4
    assert own_code() == {**own_code(), **{name: recorded[name] for name in names}}
    assert import_from_copy(folder, recorded) == names  # once more
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("user_other")


def test_changed_copy_is_not_imported(run: tuple[Path, dict[str, str]]) -> None:
    folder, recorded = run
    for name in ("user_helper.py", "userpack/inner/__init__.py"):
        before = (folder / CODE / name).read_text()
        (folder / CODE / name).write_text("raise SystemExit('imported')\n")
        with pytest.raises(ConfigError, match="does not have the hash that the journal recorded"):
            import_from_copy(folder, recorded)
        (folder / CODE / name).write_text(before)
    (folder / CODE / "userpack/more.py").write_text("")
    with pytest.raises(ConfigError, match="the source of userpack does not have the hash"):
        import_from_copy(folder, recorded)


def test_compiled_files_and_other_files_of_the_copy_are_not_read(run: tuple[Path, dict[str, str]]) -> None:
    """A compiled file may have the time and the size of a source with another content."""
    folder, recorded = run
    evil = folder.parent / "user_helper.py"
    evil.write_text("NOTE = 'another'\n")
    import py_compile

    cached = importlib.util.cache_from_source(str(folder / CODE / "user_helper.py"))
    py_compile.compile(str(evil), cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    (folder / CODE / "json.py").write_text("raise SystemExit('imported')\n")
    import_from_copy(folder, recorded)
    assert importlib.import_module("user_window").Wide.note[0] == "as it was"


@pytest.mark.parametrize("name", ["../../escape", "a.b-c", "", "a..b", "/tmp/x", "."])
def test_names_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a module"):
        import_from_copy(tmp_path, {name: "0" * 16})


def test_link_in_the_copy_is_refused(run: tuple[Path, dict[str, str]]) -> None:
    folder, recorded = run
    (folder / CODE / "user_helper.py").rename(folder.parent / "moved.py")
    (folder / CODE / "user_helper.py").symlink_to(folder.parent / "moved.py")
    with pytest.raises(ConfigError, match="is a symbolic link, which gptx does not follow"):
        import_from_copy(folder, recorded)


def test_another_version_on_the_path_is_not_mixed_with_the_copy(
    run: tuple[Path, dict[str, str]], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, recorded = run
    (source / "user_helper.py").write_text("NOTE = 'edited'\n")
    monkeypatch.syspath_prepend(str(source))
    with pytest.raises(ConfigError, match=r"another version of user_helper than .*project/user_helper\.py"):
        import_from_copy(folder, recorded)


def test_large_modules_are_not_copied(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_copy, "LARGEST", 100)
    (tmp_path / "run").mkdir()
    assert "has no copy of user_helper, user_window, userpack" in save_copy(tmp_path / "run", ["user_window"])
    assert not list((tmp_path / "run").iterdir())


# The command and the Python API


@pytest.fixture(scope="module")
def own(make: Maker) -> Gptx:
    """A run with a window of the user's own, whose module imports another one; both have been deleted since."""
    gptx = make("own code")
    (gptx.cwd / "lib").mkdir()
    (gptx.cwd / "lib/near_window.py").write_text(
        "from near_size import SIZE\nfrom gptx.window.sliding import Sliding\n"
        "class Near(Sliding):\n    def __init__(self):\n        super().__init__(size=SIZE)\n"
    )
    (gptx.cwd / "lib/near_size.py").write_text("SIZE = 5\n")
    (gptx.cwd / "conf/window").mkdir(parents=True)
    (gptx.cwd / "conf/window/near.yaml").write_text("_target_: near_window.Near\n")
    path = f"{ROOT}:{OWN}:{gptx.cwd / 'lib'}"
    done = gptx.run("gptx.run", *gptx.tiny, "--config-dir", "conf", "window=near", PYTHONPATH=path)
    assert done.code == 0, done.err
    shutil.rmtree(gptx.cwd / "lib")
    return gptx


def test_run_with_own_code_is_loaded_from_nothing_but_its_folder(own: Gptx, tmp_path: Path) -> None:
    run = Path(shutil.copytree(own.folder, tmp_path / "passed on"))
    assert sorted(path.name for path in (run / CODE).iterdir()) == ["near_size.py", "near_window.py"]
    assert {"near_size", "near_window"} <= set(json.loads((run / "result.json").read_text())["code"])
    with pytest.raises(ConfigError, match=r"--trust near_window .*--trust-code \(in Python: trust_code=True\)"):
        api.load(run, device="cpu")
    with pytest.raises(ConfigError, match=r"near_window is not on the Python path.*--trust-code"):
        api.load(run, device="cpu", trust=["near_window"])
    done = own.run("gptx.generate", str(run), "--tokens", "5", "--trust-code")
    assert done.code == 0 and not done.err, done.err
    done = own.run("gptx.certify", str(run), "--trust-code")
    assert done.code == 0, done.err
    (run / CODE / "near_size.py").write_text("raise SystemExit('imported')\n")
    one_line(own.run("gptx.generate", str(run), "--trust-code"), "does not have the hash that the journal recorded")


def test_loaded_model_uses_the_copy(own: Gptx, tmp_path: Path) -> None:
    finders = list(sys.meta_path)
    try:
        model, _ = api.load(own.folder, device="cpu", trust_code=True)
        assert model.windows[0].reach == 5 and type(model.windows[0]).__module__ == "near_window"
    finally:
        sys.meta_path[:] = finders
        for name in ("near_window", "near_size"):
            sys.modules.pop(name, None)


def test_trusted_module_that_was_edited_is_used_with_a_warning(own: Gptx, tmp_path: Path) -> None:
    (tmp_path / "near_window.py").write_text(
        "from gptx.window.sliding import Sliding\n"
        "class Near(Sliding):\n    def __init__(self):\n        super().__init__(size=7)\n"
    )
    path = f"{ROOT}:{OWN}:{tmp_path}"
    done = own.run("gptx.generate", str(own.folder), "--tokens", "5", "--trust", "near_window", PYTHONPATH=path)
    assert done.code == 0 and "near_window has changed since" in done.err and "--trust-code" in done.err


def test_run_without_a_copy_names_the_way(own: Gptx, tmp_path: Path) -> None:
    run = Path(shutil.copytree(own.folder, tmp_path / "run"))
    shutil.rmtree(run / CODE)
    with pytest.raises(ConfigError, match="has no copy of own modules"):
        api.load(run, trust_code=True)
    with pytest.raises(ConfigError) as refused:
        api.load(run)
    assert "--trust-code" not in str(refused.value)
