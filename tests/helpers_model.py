"""Tiny models in float64 for the model tests. Every variant is built from its YAML file alone, so a new variant is
tested as soon as its two files exist."""

import functools
import itertools
import re
from typing import Any

import pytest
from composed import composed
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gptx.config.instantiate import part
from gptx.config.overrides import conf_dir
from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.proofs.small_model import CONTEXT, VOCAB, WINDOW, randomise
from gptx.proofs.small_model import rows as rows  # for the tests
from gptx.window.base import Window

SIZE = WINDOW  # upper limit of the windows' sizes in the tests, so that windows hide part of a row
GROUPS = ("attention", "pos", "window", "ffn", "norm", "placement", "kernel")
TINY = (
    "model.n_layer=2",
    "model.n_head=4",
    "model.d_model=16",
    f"model.context={CONTEXT}",
    "device=cpu",
    "precision=fp32",
)

# The first variants of the project: none of them may reject another. Later ones may, and are then skipped.
FIRST = {
    "attention": {"mha", "gqa", "mqa"},
    "pos": {"none", "learned", "sinusoidal", "rope", "alibi"},
    "window": {"full", "sliding"},
    "ffn": {"gelu", "relu", "swiglu"},
    "norm": {"layernorm", "rmsnorm"},
    "placement": {"pre", "post", "peri"},
    "kernel": {"reference", "sdpa", "auto"},
}

Arm = tuple[tuple[str, str], ...]  # (("attention", "gqa"), ("pos", "rope"), ...)


def options(group: str) -> list[str]:
    """The options of a group: the names of its YAML files."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def arm(**choices: str) -> Arm:
    return tuple(choices.items())


def name(arm: Arm) -> str:
    return "-".join(option for _, option in arm)


def product(*groups: str) -> list[Arm]:
    """All combinations of the options of some groups."""
    return [tuple(zip(groups, choice, strict=True)) for choice in itertools.product(*map(options, groups))]


def pairs(first: str, second: str, third: str) -> list[Arm]:
    """Combinations in which any two options of different groups occur together. All options of the first two groups
    are combined; the options of the third group are assigned in turn."""
    thirds = options(third)
    return [
        arm(**{first: a, second: b, third: thirds[(i + j) % len(thirds)]})
        for i, a in enumerate(options(first))
        for j, b in enumerate(options(second))
    ]


ALL = product("attention", "pos", "window") + product("ffn", "placement", "norm")
PAIRS = pairs("attention", "pos", "window") + pairs("ffn", "placement", "norm")


def is_in_first_tier(arm: Arm) -> bool:
    """Whether a combination is one of `PAIRS`, and the encoding one of every second that the attention is proven with.
    Each attention meets encodings of every kind, and each encoding every second attention."""
    choice = dict(arm)
    if "pos" not in choice:
        return arm in PAIRS
    number = options("attention").index(choice["attention"]) + options("pos").index(choice["pos"])
    return arm in PAIRS and number % 2 == 0


@functools.cache
def yaml(group: str, option: str) -> DictConfig:
    """The YAML file of an option, with its interpolations unresolved."""
    found = OmegaConf.load(conf_dir() / group / f"{option}.yaml")
    assert isinstance(found, DictConfig)
    return found


def tiny(arm: Arm = (), **model: Any) -> DictConfig:
    """The config of a tiny model of these variants; ``model`` overrides keys of the group of that name."""
    cfg = composed(*TINY)
    cfg.variant.update(dict(arm))
    cfg.model.update(model)
    for group in GROUPS:
        cfg[group] = yaml(group, cfg.variant[group]).copy()
    OmegaConf.resolve(cfg)
    for key, value in cfg.window.items():
        if type(value) is int and value > SIZE:
            cfg.window[key] = SIZE
    if "threshold" in cfg.pos:
        cfg.pos.threshold = 0.5  # of such short rows: with randomised weights too, some queries are on either side
    return cfg


@functools.cache
def _tiny_option(group: str, option: str) -> DictConfig:
    found: DictConfig = tiny(arm(**{group: option}))[group]
    return found


def tiny_option(group: str, option: str, **keys: Any) -> DictConfig:
    """The config of one option in a tiny model, with other values of ``keys``."""
    cfg = _tiny_option(group, option).copy()
    assert set(keys) <= set(cfg)
    cfg.update(keys)
    return cfg


def window(option: str, **keys: Any) -> Window:
    """A window as in its YAML file, but of at most `SIZE` tokens, and except for ``keys``."""
    found: Window = part(tiny_option("window", option, **keys))
    return found


def kernels(window: str) -> list[str]:
    """The kernels that can compute a window on a CPU."""
    shape = ModelShape(n_layer=1, n_head=1, d_model=8, context=CONTEXT, vocab_size=VOCAB, dropout=0.0, bias=False)
    seen, pos = part(yaml("window", window)), part(yaml("pos", "none"), shape, 8, 1)
    kernels_by_option = {option: part(yaml("kernel", option), shape, frozenset()) for option in options("kernel")}
    return [option for option, kernel in kernels_by_option.items() if kernel.rejects(seen, pos, "cpu") is None]


def random_model(cfg: DictConfig, seed: int = 0) -> GPT:
    """A model in float64 and eval mode with random weights. If its variants reject one another, the test is skipped."""
    try:
        model = build(cfg, VOCAB)
    except ConfigError as error:
        if all(cfg.variant[group] in FIRST[group] for group in GROUPS):
            raise
        pytest.skip(str(error))
    randomise(model, seed)
    return model.double().eval()


@functools.cache
def model_of(arm: Arm, bias: bool = True) -> GPT:
    """One model for all tests of an arm; tests must not change it."""
    return random_model(tiny(arm, bias=bias))


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def rejected(build_it: Any, *args: Any) -> str:
    """The one-line message of the rejection."""
    with pytest.raises(ConfigError) as caught:
        build_it(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def advice(message: str) -> dict[str, int]:
    """The ``group.key=number`` that an error message recommends, after "use" or, in other messages, after a colon."""
    recommended = re.split("; use |: ", message)[-1]
    return {key: int(value) for key, value in re.findall(r"([a-z_]+\.[a-z_]+)=(\d+)", recommended)}
