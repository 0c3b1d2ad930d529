"""What a user gets: a wheel that works in an empty folder, and a README whose example is true."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
TINY = ["model.n_layer=1", "model.d_model=32", "model.context=32", "trainer.max_steps=4", "trainer.eval_every=2"]
TINY += ["trainer.val_tokens=1024", "runtime.sample_tokens=8", "tracking=off", "data=pydocs"]


def gptx(cwd: Path, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-m", "gptx.run", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_wheel_works_in_an_empty_folder(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("gptx-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for folder, home in (("conf", "gptx/conf"), ("experiments", "gptx/conf/experiment")):
        files = [p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*.yaml")]
        assert files and all(f"{home}/{file}" in names for file in files)

    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    empty = tmp_path / "an empty folder"
    empty.mkdir()
    done = gptx(empty, tmp_path / "site", *TINY)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in empty.iterdir()] == ["outputs"]
    sweep = gptx(empty, tmp_path / "site", "-m", "attention=mha,mqa", *TINY)
    assert sweep.returncode == 0, sweep.stderr


def test_the_readme_example_is_a_variant(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    section = text.partition("## Add a variant in two files")[2]
    code, config = re.findall(r"```(?:python|yaml)\n(.*?)```", section, re.DOTALL)[:2]
    assert len(code.splitlines()) + len(config.splitlines()) <= 20
    (tmp_path / "dilated_window.py").write_text(code)
    (tmp_path / "own" / "window").mkdir(parents=True)
    mine = {**yaml.safe_load(config), "_target_": "dilated_window.Dilated"}
    (tmp_path / "own" / "window" / "dilated.yaml").write_text(yaml.safe_dump(mine))
    path = Path(os.pathsep.join([str(ROOT), str(tmp_path)]))
    done = gptx(tmp_path, path, "--config-dir", "own", "window=dilated", "window.step=3", *TINY)
    assert done.returncode == 0, done.stderr
    assert "mha·rope·dilated·single·s0" in done.stdout
