"""Curricula: pure functions of generator and state, with a floor under every item."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.errors import CheckpointError, ConfigError
from distrl.base.pack import pack, unpack
from distrl.base.seeds import generator
from distrl.language.curricula.base import make_curriculum

NAMES = ("uniform", "success_band", "dynamic")
SIZE = 12
UPDATES = st.lists(
    st.dictionaries(st.integers(0, SIZE - 1), st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4)), max_size=6
)


def fed(name: str, updates, **options: object):
    curriculum = make_curriculum(name, SIZE, options)
    for results in updates:
        curriculum.update(results)
    return curriculum


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(updates=UPDATES, later=UPDATES, seed=st.integers(0, 99), count=st.integers(0, 40))
def test_state_round_trips_and_samples_are_pure(name: str, updates, later, seed: int, count: int):
    ours = fed(name, updates)
    state = unpack(*pack(ours.state_dict()))
    other = make_curriculum(name, SIZE)
    other.load_state_dict(state)
    first = ours.sample(generator(seed), count)
    np.testing.assert_array_equal(first, ours.sample(generator(seed), count))
    np.testing.assert_array_equal(first, other.sample(generator(seed), count))
    for curriculum in (ours, other):
        for results in later:
            curriculum.update(results)
    np.testing.assert_array_equal(ours.sample(generator(seed), count), other.sample(generator(seed), count))
    np.testing.assert_array_equal(make_curriculum(name, SIZE).weights() > 0, True)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(updates=UPDATES, seed=st.integers(0, 99), count=st.integers(0, 40))
def test_no_item_twice_before_all(name: str, updates, seed: int, count: int):
    drawn = fed(name, updates).sample(generator(seed), count)
    assert drawn.shape == (count,)
    times = np.bincount(drawn, minlength=SIZE)
    assert times.max() - times.min() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_item_keeps_its_floor(name: str):
    curriculum = fed(name, [{item: [1.0, 1.0] for item in range(SIZE - 2)}], floor=0.3)
    draws, count = 4000, 2
    rng = generator(0)
    times = sum(np.bincount(curriculum.sample(rng, count), minlength=SIZE) for _ in range(draws))
    least = 0.3 * count / SIZE
    assert (times / draws).min() > least - 4 * np.sqrt(least / draws)


def test_uniform_is_uniform():
    rng = generator(1)
    curriculum = make_curriculum("uniform", SIZE)
    times = sum(np.bincount(curriculum.sample(rng, 3), minlength=SIZE) for _ in range(4000))
    assert abs(times / 1000 - 1.0).max() < 0.15


def test_success_band():
    results = {0: [1.0] * 4, 1: [0.0] * 4, 2: [1.0, 0.0], 3: [1.0, 1.0, 1.0, 0.0]}
    curriculum = fed("success_band", [results], floor=1e-9)
    assert list(np.flatnonzero(curriculum.weights() == 0)) == [0, 1]
    assert not {0, 1} & set(curriculum.sample(generator(0), SIZE - 2))
    curriculum.update({0: [0.0, 0.0], 2: [1.0, 1.0]})  # rates 0.5 and 0.75
    assert list(np.flatnonzero(curriculum.weights() == 0)) == [1]


def test_dynamic_rests_and_returns():
    curriculum = fed("dynamic", [{0: [1.0, 1.0], 1: [0.0, 0.0], 2: [1.0, 0.0], 3: [1.0]}], floor=1e-9, rest=2)
    assert list(np.flatnonzero(curriculum.weights() == 0)) == [0, 1]
    curriculum.update({0: [1.0, 0.0]})  # the floor asked it again, and it has become useful
    assert list(np.flatnonzero(curriculum.weights() == 0)) == [1]
    curriculum.update({})
    assert curriculum.weights().all()


def test_when_all_rest_all_are_equally_likely():
    curriculum = fed("dynamic", [{item: [1.0, 1.0] for item in range(SIZE)}], floor=1e-9)
    rng = generator(2)
    times = sum(np.bincount(curriculum.sample(rng, 3), minlength=SIZE) for _ in range(4000))
    assert abs(times / 1000 - 1.0).max() < 0.15


def test_wrong_words_and_foreign_states():
    with pytest.raises(ConfigError, match="did you mean 'dynamic'"):
        make_curriculum("dynamics", 3)
    with pytest.raises(ConfigError, match="Did you mean 'floor'"):
        make_curriculum("uniform", 3, {"flor": 0.1})
    with pytest.raises(ConfigError, match=r"floor = 0\.0"):
        make_curriculum("uniform", 3, {"floor": 0.0})
    with pytest.raises(ConfigError, match="nothing to ask"):
        make_curriculum("uniform", 0)
    with pytest.raises(CheckpointError, match="over 3 items"):
        make_curriculum("dynamic", 4).load_state_dict(make_curriculum("dynamic", 3).state_dict())
    with pytest.raises(CheckpointError):
        make_curriculum("dynamic", 4).load_state_dict(make_curriculum("uniform", 4).state_dict())
