"""Spaces: arrays, descriptions, equality, JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence, Text, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.columns import tree_leaves
from distrl.base.errors import CheckpointError, EnvError
from distrl.control.envs.backends.observations import batch_writer, castable, finite_check, mismatch, row_writer
from distrl.control.envs.spaces import (
    describe,
    difference,
    nbytes,
    require_same,
    require_supported,
    space_from_json,
    space_to_json,
    zeros,
)

bounds = st.one_of(st.just(-np.inf), st.floats(-100, 0, width=32))


@st.composite
def boxes(draw: Any) -> Box:
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    if draw(st.booleans()):
        return Box(0, 255, shape, np.uint8)
    size = int(np.prod(shape))
    low = np.array(draw(st.lists(bounds, min_size=size, max_size=size))).reshape(shape)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return Box(low.astype(dtype), np.where(np.isinf(low), np.inf, 5.0).astype(dtype), shape, dtype)


leaves = st.one_of(
    boxes(),
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 9), st.integers(-3, 3)),
    st.builds(MultiBinary, st.integers(1, 4)),
    st.builds(MultiDiscrete, st.lists(st.integers(1, 5), min_size=1, max_size=3)),
)
spaces: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda children: st.one_of(
        st.lists(children, min_size=1, max_size=3).map(Tuple),
        st.dictionaries(st.sampled_from("abcd"), children, min_size=1, max_size=3).map(Dict),
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(spaces)
def test_json_round_trip(space: Any) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert space_from_json(json.loads(text)) == space
    assert difference(space, space_from_json(json.loads(text))) is None


@settings(max_examples=100, deadline=None)
@given(spaces, st.integers(1, 4))
def test_writers_agree_and_find_nothing_wrong_with_samples(space: Any, num_envs: int) -> None:
    space.seed(num_envs)
    samples = [space.sample() for _ in range(num_envs)]
    assert [mismatch(space, sample) for sample in samples] == [None] * num_envs
    block, rows = zeros(space, num_envs), zeros(space, num_envs)
    batch_writer(space, block)(samples)
    for i, sample in enumerate(samples):
        row_writer(space, rows)(i, sample)
    for a, b in zip(tree_leaves(block), tree_leaves(rows), strict=True):
        assert a.tobytes() == b.tobytes()
    assert finite_check(block)()
    assert nbytes(space) * num_envs == sum(leaf.nbytes for leaf in tree_leaves(block))
    for leaf in tree_leaves(block):
        if leaf.dtype.kind == "f":
            leaf.flat[-1] = np.nan
            assert not finite_check(block)()


def test_infinities_are_found() -> None:
    block = np.zeros((2, 3), np.float32)
    block[1, 1] = -np.inf
    with np.errstate(invalid="ignore"):
        assert not finite_check(block)()


def test_shapes_with_lead() -> None:
    tree = zeros(Tuple((Discrete(3), Box(0, 1, (2,)))), 5, 4)
    assert [leaf.shape for leaf in tree] == [(5, 4), (5, 4, 2)]
    assert [leaf.dtype for leaf in tree] == [np.int64, np.float32]


@pytest.mark.parametrize("space", [Text(3), Graph(Discrete(2), None), Sequence(Discrete(2)), Dict(a=Text(2)), Dict()])
def test_unsupported(space: Any) -> None:
    with pytest.raises(EnvError, match=r"my env: .*(is not supported|is empty)"):
        require_supported(space, Discrete(2), "my env")
    with pytest.raises(EnvError, match="action space"):
        require_supported(Discrete(2), space, "my env")


def test_unknown_space_in_a_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="unknown space 'Hyperbox'"):
        space_from_json({"type": "Hyperbox"})
    with pytest.raises(EnvError, match="cannot write a Text space"):
        space_to_json(Text(3))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Box(-1, 1, (3,)), Box(-1, 1, (4,)), r"Box\(3,\) float32 in \[-1, 1\] against Box\(4,\)"),
        (Discrete(2), Discrete(3), "Discrete 0..1 against Discrete 0..2"),
        (Dict(a=Discrete(2)), Dict(b=Discrete(2)), r"keys \['a'\] against \['b'\]"),
        (Tuple((Discrete(2),)), Tuple((Discrete(2), Discrete(2))), "1 parts against 2"),
        (Discrete(2), Box(-1, 1, (2,)), "Discrete 0..1 against Box"),
        (Dict(a=Tuple((MultiBinary(2),))), Dict(a=Tuple((MultiBinary(3),))), "MultiBinary 2 against MultiBinary 3"),
    ],
    ids=str,
)
def test_checkpoint_for_another_space(one: Any, other: Any, expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected):
        require_same(one, other, "action")


def test_bounds_do_not_matter_to_a_policy() -> None:
    require_same(Box(-1, 1, (3,)), Box(-np.inf, 7, (3,)), "observation")


def test_descriptions() -> None:
    assert describe(Box(0, 255, (84, 84, 4), np.uint8)) == "Box(84, 84, 4) uint8 in [0, 255]"
    assert describe(Tuple((MultiDiscrete([2, 3]), Text(3)))) == "Tuple(MultiDiscrete [2, 3], Text)"


@pytest.mark.parametrize(
    ("found", "expected", "fits"),
    [("f8", "f4", True), ("i8", "f4", True), ("f4", "u1", False), ("i8", "u1", False), ("i8", "i1", True)],
)
def test_what_may_be_stored_as_what(found: str, expected: str, fits: bool) -> None:
    assert castable(np.dtype(found), np.dtype(expected)) == fits
