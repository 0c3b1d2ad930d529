"""Drawn override sets: each composes, builds and computes, or is rejected in one line."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Gptx
from composed import COMPOSITIONS

from gptx.config.axes import axes
from gptx.config.compose import compose, compose_plain
from gptx.config.overrides import conf_dir
from gptx.config.plain_dict import flat
from gptx.errors import GptxError
from gptx.model.build import build
from gptx.training.preflight import check

pytestmark = pytest.mark.full

SMALL = ["model.n_layer=2", "model.n_head=4", "model.d_model=32", "model.context=16", "tracking=off"]
VALUES = [
    *("0", "1", "2", "3", "16", "-1", "0.5", "1e-3", "-0.0", "1e400", "nan", "inf", "true", "off", "null", "''", "x"),
    *("é", "a·b", "a=b", "[]", "[1]", "[0.9,0.95]", "{}", "{a:1}", "../model/nano", "/", "${seed}", "${nothere}", "${"),
    *("$", "1_0", "0x1", "'", '"', "(", ")", "a,b", "range(3)", "int(1.5)", "gptx", "a b", "\\", "%", "~", "@", "🙂"),
]
PREFIXES = ["", "", "", "", "", "", "", "", "+", "++", "~"]


def drawn(random: random.Random) -> list[str]:
    """Up to seven overrides: options of axes, keys with valid or strange values, and rarely nonsense. In every second
    set, all options exist and all values have the type of their key: these are most of the sets that compute."""
    names = random.sample([axis.name for axis in axes()], random.randint(0, 4))
    plausible, chosen = random.random() < 0.5, []
    for name in names:
        options = sorted(path.stem for path in (conf_dir() / name).glob("*.yaml"))
        chosen.append(f"{name}={random.choice(options if plausible or random.random() < 0.8 else VALUES)}")
    try:
        defaults = dict(flat(compose_plain([*SMALL[:-1], *chosen], COMPOSITIONS)))
    except GptxError:
        defaults = dict.fromkeys(["model.n_layer", "trainer", "attention.n_kv_head"])
    if plausible:
        numbers = [key for key, value in defaults.items() if isinstance(value, int | float)]
        for key in random.sample(numbers, min(len(numbers), random.randint(0, 3))):
            chosen.append(f"{key}={near(random, defaults[key])}")
        return random.sample(chosen, len(chosen))
    keys = list(defaults)
    for _ in range(random.randint(0, 3)):
        key = random.choice([*keys, "nothing", "model.n_layers", "trainer.", ".", "", "é", "model[0]", "a@b"])
        value = random.choice(VALUES) if random.random() < 0.6 else str(random.randint(1, 64))
        chosen.append(f"{random.choice(PREFIXES)}{key}={value}")
    return random.sample(chosen, len(chosen))


def near(random: random.Random, default: Any) -> str:
    """A value of the type of a default and of a similar size."""
    if isinstance(default, bool):
        return random.choice(["true", "false"])
    return str(random.choice([default, 2 * default, default // 2 if isinstance(default, int) else default / 2]))


def is_one_line(error: GptxError) -> bool:
    return bool(str(error)) and "\n" not in str(error) and "full_key" not in str(error)


def test_drawn_override_sets_compute_or_are_rejected_in_one_line() -> None:
    chance, built = random.Random(13), 0
    for number in range(800):
        overrides = [*SMALL, *drawn(chance)]
        overrides = list({override.partition("=")[0]: override for override in overrides}.values())
        try:
            cfg = compose(overrides, COMPOSITIONS)
            check(cfg)
            if cfg.model.n_layer * cfg.model.d_model**2 * cfg.model.context > 2**24:
                continue  # takes too long
            model = build(cfg, 257, "cpu")
        except GptxError as error:
            assert is_one_line(error), (number, overrides, str(error))
            continue
        except BaseException as error:
            raise AssertionError((number, overrides)) from error
        tokens = torch.randint(0, 257, (2, cfg.model.context))
        with torch.no_grad():
            assert model(tokens).isfinite().all(), (number, overrides)
        built += 1
    assert built > 200


def test_drawn_commands_end_in_one_line(gptx: Gptx, tmp_path: Path) -> None:
    chance = random.Random(40)
    for number in range(30):
        overrides = list({one.partition("=")[0]: one for one in [*gptx.tiny, *drawn(chance)]}.values())
        done = gptx.run("gptx.run", "dry_run=true", *overrides)
        assert done.code in (0, 2) and "Traceback" not in done.out + done.err, (number, overrides, done)
        lines = [line for line in done.err.splitlines() if line.startswith("gptx: ")]
        assert done.code == 0 or len(lines) == 1 or "rejected:" in done.out, (number, overrides, done)
