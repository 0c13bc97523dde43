"""The limiter counts exactly."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.store.limiter import Limiter


@given(
    ratio=st.sampled_from([0.125, 0.25, 1 / 3, 0.1, 1.0, 2.5, 20.0]),
    starts=st.integers(0, 50),
    inserts=st.lists(st.integers(0, 40), max_size=30),
)
def test_steps_are_the_floor_of_the_ratio(ratio: float, starts: int, inserts: list[int]):
    limiter, exact = Limiter(ratio, starts), Fraction(ratio).limit_denominator(1_000_000)
    taken = 0
    for number, steps in enumerate(inserts):
        limiter.insert(steps)
        due = limiter.due()
        assert due >= 0
        limiter.done(due)
        taken += due
        assert taken == math.floor(exact * max(0, sum(inserts[: number + 1]) - starts))
        assert limiter.warm == (sum(inserts[: number + 1]) >= starts)
        other = Limiter(ratio, starts)
        other.load_state(limiter.state())
        assert other.state() == limiter.state()
        assert other.due() == limiter.due() == 0


def test_wrong_numbers():
    with pytest.raises(ConfigError, match="ratio"):
        Limiter(0.0)
    with pytest.raises(ConfigError, match="no negative number"):
        Limiter(1.0, -1)
