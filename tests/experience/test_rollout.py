"""Rollouts: checked, joined side by side, cut apart again; fragments as states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.columns import Columns, tree_leaves
from distrl.base.pack import pack, unpack
from distrl.experience.fragment import (
    EpisodeReport,
    FragmentData,
    FragmentMeta,
    Unit,
    fragment_from_state,
    fragment_to_state,
)
from distrl.experience.moments import Moments
from distrl.experience.rollout import cat_rollouts, check_rollout, rollout_bytes, slice_envs


def rollout(steps: int, envs: int, seed: int) -> Columns:
    """Random content with nested observations, a recurrent state, a mask, and some truncated steps."""
    rng = np.random.default_rng(seed)
    truncated = rng.random((steps, envs)) < 0.3
    index = np.argwhere(truncated)[rng.permutation(int(truncated.sum()))]  # in the order in which they were noted

    def obs(*lead: int) -> Any:
        return {"x": rng.normal(size=(*lead, 3)).astype(np.float32), "y": (rng.integers(0, 9, lead),)}

    return Columns(
        obs=obs(steps, envs),
        action=rng.integers(0, 2, (steps, envs)),
        logp=rng.normal(size=(steps, envs)).astype(np.float32),
        params=rng.normal(size=(steps, envs, 2)).astype(np.float32),
        reward=rng.normal(size=(steps, envs)).astype(np.float32),
        terminated=rng.random((steps, envs)) < 0.1,
        truncated=truncated,
        first=rng.random((steps, envs)) < 0.1,
        mask=rng.random((steps, envs, 2)) < 0.5,
        last_obs=obs(envs),
        final_obs=obs(len(index)),
        final_index=index.astype(np.int64).reshape(-1, 2),
        version=np.full(envs, seed, np.int64),
        state=(rng.normal(size=(envs, 4)).astype(np.float32),),
    )


def assert_same(one: Columns, other: Columns) -> None:
    assert list(one) == list(other)
    for mine, theirs in zip(tree_leaves(one), tree_leaves(other), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@given(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 1000))
def test_slices_undo_joining(steps: int, widths: list[int], seed: int) -> None:
    parts = [check_rollout(rollout(steps, width, seed + i)) for i, width in enumerate(widths)]
    joined = check_rollout(cat_rollouts(parts))
    assert joined.reward.shape == (steps, sum(widths))
    start = 0
    for part, width in zip(parts, widths, strict=True):
        assert_same(slice_envs(joined, start, start + width), part)
        start += width


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 1000))
def test_final_positions_move_with_their_environments(widths: list[int], seed: int) -> None:
    joined = cat_rollouts([rollout(4, width, seed + i) for i, width in enumerate(widths)])
    positions = {tuple(place) for place in joined.final_index.tolist()}
    assert positions == {tuple(place) for place in np.argwhere(joined.truncated).tolist()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": np.zeros((3, 2))}, "unknown column 'surprise'"),
        ({"logp": np.zeros((2, 2))}, "'logp' begins with"),
        ({"last_obs": {"x": np.zeros((3, 3))}}, "'last_obs' begins with"),
        ({"final_obs": {"x": np.zeros((99, 3))}}, "'final_obs' begins with"),
    ],
)
def test_a_wrong_rollout_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rollout(rollout(3, 2, 0).with_(**change))


def test_a_lacking_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"lacks \['logp', 'last_obs'\]"):
        check_rollout(rollout(3, 2, 0).without("logp", "last_obs"))


def test_bytes() -> None:
    given_rollout = rollout(3, 2, 0)
    assert rollout_bytes(given_rollout) == sum(leaf.nbytes for leaf in tree_leaves(given_rollout))


@pytest.mark.parametrize("normalized", [False, True])
def test_a_waiting_fragment_survives_a_checkpoint(normalized: bool) -> None:
    rng = np.random.default_rng(0)
    moments = [Moments.of(rng.normal(size=(4, 2, 3))), Moments.of(rng.normal(size=(4, 2)))] if normalized else []
    meta = FragmentMeta(Unit(3, 1), 2, 8, [EpisodeReport(1, 0, 5, 1.5, 7)], nbytes=9, sampler=1)
    data = FragmentData(rollout(4, 2, 0), *moments)
    read_meta, read_data = fragment_from_state(unpack(*pack(fragment_to_state(meta, data))))
    assert read_meta == meta
    assert isinstance(read_meta.unit, Unit)
    assert_same(read_data.rollout, data.rollout)
    for name in ("obs_moments", "return_moments"):
        mine, theirs = getattr(data, name), getattr(read_data, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.count == theirs.count
            np.testing.assert_array_equal(mine.mean, theirs.mean)
            np.testing.assert_array_equal(mine.m2, theirs.m2)


def test_units_sort_by_sequence_then_stream() -> None:
    assert sorted([Unit(1, 0), Unit(0, 1), Unit(0, 0)]) == [Unit(0, 0), Unit(0, 1), Unit(1, 0)]
