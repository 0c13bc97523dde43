"""Schedules: endpoints, direction, bounds, and what fields do with them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from distrl.base.errors import ConfigError
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.schedule import Schedule, Scheduled

positive = st.floats(1e-9, 1e9)
shapes = st.sampled_from(["linear", "cosine", "exponential"])
schedules = st.builds(
    Schedule,
    start=positive,
    end=positive,
    over=st.one_of(st.none(), st.integers(1, 10**7)),
    shape=shapes,
    after=st.integers(0, 10**6),
)
TOTAL = 2 * 10**6


class Example(AlgorithmConfig):
    clip: Scheduled[float] = Field(0.2, ge=0, le=1)
    """A bounded number."""
    epochs: Scheduled[int] = Field(4, ge=1)
    """A whole number."""


@given(schedules)
def test_endpoints_are_exact_and_held(schedule: Schedule) -> None:
    finish = TOTAL if schedule.over is None else schedule.after + schedule.over
    for steps in (0, schedule.after):
        assert schedule.at(steps, TOTAL) == schedule.start
    for steps in (finish, finish + 1, 10 * finish):
        assert schedule.at(steps, TOTAL) == schedule.end


@given(schedules, st.lists(st.integers(0, 2 * 10**7), min_size=2, max_size=20))
def test_moves_one_way_and_stays_inside(schedule: Schedule, moments: list[int]) -> None:
    values = [schedule.at(steps, TOTAL) for steps in sorted(moments)]
    assert all(schedule.low <= value <= schedule.high for value in values)
    slack = 1e-9 * schedule.high  # rounding between neighboring moments
    for earlier, later in itertools.pairwise(values):
        if schedule.end >= schedule.start:
            assert later >= earlier - slack
        else:
            assert later <= earlier + slack


@given(schedules)
def test_written_form_reads_back(schedule: Schedule) -> None:
    assert Schedule.parse(schedule.to_dict()) == schedule


@pytest.mark.parametrize(("shape", "quarter", "half"), [("linear", 75.25, 50.5), ("exponential", 10**1.5, 10.0)])
def test_shapes(shape: str, quarter: float, half: float) -> None:
    schedule = Schedule.parse({"from": 100, "to": 1, "over": 1000, "shape": shape, "after": 500})
    assert schedule.at(750) == pytest.approx(quarter)
    assert schedule.at(1000) == pytest.approx(half)


def test_cosine_is_slow_at_both_ends() -> None:
    schedule = Schedule.parse({"from": 0, "to": 1, "over": 100, "shape": "cosine"})
    assert schedule.at(50) == pytest.approx(0.5)
    assert schedule.at(10) < 0.1
    assert schedule.at(90) > 0.9


def test_negative_exponential_keeps_its_sign() -> None:
    schedule = Schedule(-1.0, -100.0, over=2, shape="exponential")
    assert schedule.at(1) == pytest.approx(-10.0)


def test_config_without_schedules_is_itself() -> None:
    config = Example(name="x")
    assert config.at(5, 10) is config


def test_config_at_a_moment() -> None:
    config = Example.model_validate(
        {
            "name": "x",
            "learning_rate": {"from": 1e-3, "to": 0},
            "epochs": {"from": 10, "to": 1, "over": 90},
            "clip": {"from": 0.5, "to": 0.1, "over": 10, "after": 20},
        }
    )
    now = config.at(30, 60)
    assert (now.learning_rate, now.epochs, now.clip, now.gamma) == (5e-4, 7, 0.1, 0.99)
    assert isinstance(now.epochs, int)
    assert now.at(0, 60) is now
    assert set(config.schedules) == {"learning_rate", "epochs", "clip"}
    assert config.at(0, 60).clip == 0.5


def test_default_may_be_a_schedule() -> None:
    class Falling(AlgorithmConfig):
        clip: Scheduled[float] = Field(Schedule(1.0, 0.0, over=10), ge=0)  # type: ignore[assignment]

    assert Falling(name="x").at(5).clip == 0.5


def test_config_with_schedules_reads_back() -> None:
    config = Example.model_validate({"name": "x", "clip": {"from": 0.5, "to": 0.1, "over": 10}})
    assert Example.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("key", ["from", "to"])
def test_bounds_hold_for_both_ends(key: str) -> None:
    schedule = {"from": 0.5, "to": 0.5, key: 1.5}
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Example.model_validate({"name": "x", "clip": schedule})


def test_whole_number_schedule_has_whole_ends() -> None:
    with pytest.raises(ValidationError, match="integer"):
        Example.model_validate({"name": "x", "epochs": {"from": 1.5, "to": 3}})


def test_run_schedule_needs_a_length() -> None:
    with pytest.raises(ConfigError, match=r"needs stop\.env_steps"):
        Schedule(1.0, 0.0).at(5)


@pytest.mark.parametrize("over", [0, -5, 1.5, True, "all", None])
def test_bad_over(over: object) -> None:
    with pytest.raises(ValueError, match="schedule `over`"):
        Schedule.parse({"from": 1, "to": 0, "over": over})


def test_schedules_compare_by_all_their_values() -> None:
    schedule = Schedule(0.2, 0.8)
    assert schedule >= 0.2
    assert schedule <= 0.8
    assert not schedule > 0.2
    assert not schedule < 0.8
    assert schedule > 0.1
    assert schedule < 0.9
