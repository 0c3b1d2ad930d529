"""Learning-rate schedules: shape, formulas and rejected values."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from helpers_model import options, rejected
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from gptx.config.instantiate import part
from gptx.config.overrides import conf_dir

Schedule = Callable[[int, int], float]
FRACTIONS = st.floats(0, 0.5)


def schedule(name: str, **values: float) -> Schedule:
    """The schedule of this option; ``values`` that are not keys of it are ignored."""
    cfg = OmegaConf.load(conf_dir() / "schedule" / f"{name}.yaml")
    assert isinstance(cfg, DictConfig)
    built: Schedule = part(OmegaConf.merge(cfg, {k: v for k, v in values.items() if k in cfg}))
    return built


every_schedule = pytest.mark.parametrize("name", options("schedule"))


@every_schedule
@settings(max_examples=60)
@given(
    data=st.data(), max_steps=st.integers(1, 3000), warmup=st.floats(0, 1), decay=st.floats(0, 1), final=st.floats(0, 1)
)
def test_schedule_is_a_fraction_of_the_peak(
    name: str, data: st.DataObject, max_steps: int, warmup: float, decay: float, final: float
) -> None:
    rate = schedule(name, warmup=warmup, decay=decay, final=final)
    step = data.draw(st.integers(0, max_steps))
    assert 0 <= rate(step, max_steps) <= 1
    if step < max_steps:
        assert rate(step, max_steps) > 0 or final == 0, "a step without effect"


@every_schedule
@settings(max_examples=40)
@given(max_steps=st.integers(1, 300), warmup=FRACTIONS, decay=FRACTIONS, final=st.floats(0, 1))
def test_schedule_rises_in_warmup_only(name: str, max_steps: int, warmup: float, decay: float, final: float) -> None:
    rate = schedule(name, warmup=warmup, decay=decay, final=final)
    curve = [rate(step, max_steps) for step in range(max_steps + 1)]
    top = math.ceil(warmup * max_steps)
    rising, rest = curve[:top], curve[top:]
    assert all(a < b for a, b in pairwise(rising))
    assert all(math.isclose(r, (i + 1) / (warmup * max_steps + 1)) for i, r in enumerate(rising))
    if top == warmup * max_steps < (1 - decay) * max_steps:
        assert rest[0] == 1, "the peak itself is reached"
    assert all(a >= b - 1e-12 for a, b in pairwise(rest))


@settings(max_examples=60)
@given(max_steps=st.integers(2, 3000), warmup=FRACTIONS, decay=FRACTIONS, final=st.floats(0, 1))
def test_schedule_ends_at_final(max_steps: int, warmup: float, decay: float, final: float) -> None:
    for name in ("cosine", "wsd"):
        rate = schedule(name, warmup=warmup, decay=decay, final=final)
        assert rate(max_steps, max_steps) == pytest.approx(final, abs=1e-12), name
    assert schedule("constant", warmup=warmup)(max_steps, max_steps) == 1


@settings(max_examples=60)
@given(max_steps=st.integers(100, 3000), warmup=FRACTIONS, decay=FRACTIONS, final=st.floats(0, 1), way=st.floats(0, 1))
def test_schedules_equal_their_formulas(max_steps: int, warmup: float, decay: float, final: float, way: float) -> None:
    cosine = schedule("cosine", warmup=warmup, final=final)
    middle = (warmup * max_steps + max_steps) / 2
    if middle.is_integer():
        assert cosine(int(middle), max_steps) == pytest.approx((1 + final) / 2)
    wsd = schedule("wsd", warmup=warmup, decay=decay, final=final)
    step, fall = round(way * max_steps), (1 - decay) * max_steps  # fall: the plateau's end
    if decay * max_steps < 1:  # it falls between two steps
        return
    if math.ceil(warmup * max_steps) <= step <= fall:
        assert wsd(step, max_steps) == pytest.approx(1, abs=1e-6)
    if step > fall:
        expected = final + (1 - final) * (1 - math.sqrt((step - fall) / (decay * max_steps)))
        assert wsd(step, max_steps) == pytest.approx(expected, abs=1e-6)


@every_schedule
@settings(max_examples=60)
@given(data=st.data(), warmup=st.floats(0.02, 0.5), decay=st.floats(0.02, 0.5), final=st.floats(0, 1))
def test_schedule_is_continuous(name: str, data: st.DataObject, warmup: float, decay: float, final: float) -> None:
    """With a million steps, neighbouring values are almost equal, also at the border of two phases."""
    rate, max_steps = schedule(name, warmup=warmup, decay=decay, final=final), 1_000_000
    near = data.draw(st.sampled_from([0, round(warmup * max_steps), round((1 - decay) * max_steps), max_steps]))
    step = min(max(0, near + data.draw(st.integers(-3, 3))), max_steps - 1)
    assert abs(rate(step + 1, max_steps) - rate(step, max_steps)) < 0.008  # 1 - sqrt falls by 1/sqrt(20000) at first


@every_schedule
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_schedule_rejects_fraction_out_of_range(name: str, value: float) -> None:
    known = OmegaConf.load(conf_dir() / "schedule" / f"{name}.yaml")
    keys = [key for key in ("warmup", "decay", "final") if key in known]
    assert keys
    for key in keys:
        message = rejected(schedule(name, **{key: value}), 0, 10)
        assert f"schedule.{key}={value}: expected a fraction from 0 to 1" in message
        schedule(name, **{key: 1.0})(0, 10)
