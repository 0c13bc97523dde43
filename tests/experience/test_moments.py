"""Merged moments are those of all values together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.experience.moments import PRIOR_COUNT, Moments


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_merging_parts_gives_the_whole(seed):
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(rng.normal() * 10, rng.random() * 5, size=(int(rng.integers(1, 5)), 2, 3))
        for _ in range(rng.integers(1, 6))
    ]
    total = Moments.of(parts[0])
    for part in parts[1:]:
        total = total.merge(Moments.of(part))
    rows = np.concatenate(parts).reshape(-1, 3)
    assert total.count == len(rows)
    np.testing.assert_allclose(total.mean, rows.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(total.var, rows.var(axis=0), atol=1e-11)


def test_merge_by_hand():
    # (0, 2) and (4): mean 2, squared distances 4 + 0 + 4
    total = Moments.of(np.array([0.0, 2.0]), leading=1).merge(Moments.of(np.array([4.0]), leading=1))
    assert (total.count, float(total.mean), float(total.m2)) == (3.0, 2.0, 8.0)


def test_the_prior_weighs_a_ten_thousandth_of_a_value():
    prior = Moments.prior()
    assert (prior.count, float(prior.mean), float(prior.var)) == (PRIOR_COUNT, 0.0, 1.0)
    total = prior.merge(Moments.of(np.array([[3.0, 5.0]])))
    assert float(total.mean) == pytest.approx(4.0, abs=1e-3)
    assert float(total.var) == pytest.approx(1.0, abs=2e-3)
    n = PRIOR_COUNT  # d = 4, m = d * 2 / (n + 2), M2 = n + 2 + d^2 n 2 / (n + 2)
    assert float(total.mean) == pytest.approx(8 / (n + 2), abs=1e-15)
    assert float(total.m2) == pytest.approx(n + 2 + 16 * n * 2 / (n + 2), abs=1e-15)


def test_a_prior_without_shape_takes_that_of_the_first_batch():
    batch = Moments.of(np.random.default_rng(0).normal(size=(4, 2, 3)))
    found, expected = Moments.prior().merge(batch), Moments.prior((3,)).merge(batch)
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.m2, expected.m2)


def test_masked_rows_do_not_count():
    array = np.array([[[1.0], [999.0]], [[3.0], [np.nan]]])
    found = Moments.of(array, np.array([[True, False], [True, False]]))
    assert (found.count, found.mean.tolist(), found.m2.tolist()) == (2.0, [2.0], [2.0])


def test_an_empty_batch_changes_nothing():
    empty = Moments.of(np.ones((2, 2, 3)), np.zeros((2, 2), bool))
    assert (empty.count, empty.mean.shape) == (0.0, (3,))
    total = Moments.of(np.arange(6.0).reshape(2, 1, 3))
    assert total.merge(empty) is total
    assert np.array_equal(empty.merge(total).mean, total.mean)
    assert np.array_equal(empty.merge(total).m2, total.m2)
    assert empty.merge(empty).count == 0
    assert empty.var.tolist() == [1.0, 1.0, 1.0]


def test_large_offsets_and_small_types_keep_their_variance():
    values = np.arange(4, dtype=np.float64)[:, None] + 1e8
    assert float(Moments.of(values).var) == pytest.approx(1.25, rel=1e-12)
    pixels = np.full((300, 300), 255, np.uint8)
    found = Moments.of(pixels)
    assert (float(found.mean), float(found.var), found.mean.dtype) == (255.0, 0.0, np.float64)


def test_order_is_all_that_matters():
    rng = np.random.default_rng(5)
    parts = [Moments.of(rng.normal(size=(8, 2, 4))) for _ in range(10)]

    def fold() -> Moments:
        total = Moments.prior((4,))
        for part in parts:
            total = total.merge(Moments.from_state(part.to_state()))
        return total

    first, second = fold(), fold()
    assert first.count == second.count
    assert first.mean.tobytes() == second.mean.tobytes()
    assert first.m2.tobytes() == second.m2.tobytes()


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_state_round_trip(shape):
    moments = Moments.prior(shape).merge(Moments.of(np.random.default_rng(0).normal(size=(5, 2, *shape))))
    state = moments.to_state()
    found = Moments.from_state(state)
    assert found.count == moments.count
    assert found.mean.tobytes() == moments.mean.tobytes()
    assert found.m2.tobytes() == moments.m2.tobytes()
    state["mean"][...] = 7.0  # a copy, not a view
    assert not (moments.mean == 7.0).any()
    json.dumps(state["count"])
