"""Weights as bytes: a round trip, tied tensors, and a checksum that sees every bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import CheckpointError
from distrl.base.pack import pack, unpack
from distrl.experience.weights import ALIGNMENT, Weights

DTYPES = ["<f4", "<f8", "<i8", "|u1", "|b1"]
arrays = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 2**32 - 1)),
    max_size=5,
)


def random_arrays(spec: dict[str, tuple[str, list[int], int]]) -> dict[str, np.ndarray]:
    made = {}
    for name, (dtype, shape, seed) in spec.items():
        made[name] = (np.random.default_rng(seed).normal(size=shape) * 9).astype(dtype)
    return made


@given(arrays)
def test_round_trip(spec: dict[str, tuple[str, list[int], int]]) -> None:
    given_arrays = random_arrays(spec)
    weights = Weights.from_state(unpack(*pack(Weights.of(given_arrays, version=7).to_state())))
    assert weights.version == 7
    found = weights.arrays()
    assert list(found) == list(given_arrays)
    for name, array in given_arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    assert all(entry.offset % ALIGNMENT == 0 for entry in weights.table)


def test_the_bytes_are_a_copy() -> None:
    array = np.zeros(3)
    weights = Weights.of({"a": array}, 0)
    array[:] = 1
    assert weights.arrays()["a"].tolist() == [0, 0, 0]


def test_tied_tensors_are_stored_once() -> None:
    array = np.arange(100.0)
    once, twice = Weights.of({"a": array}, 0), Weights.of({"a": array, "b": array}, 0)
    assert once.buffer.size == twice.buffer.size
    assert twice.table[0].offset == twice.table[1].offset
    apart = Weights.of({"a": array, "b": array.copy()}, 0)
    assert apart.buffer.size == 2 * once.buffer.size


def test_views_that_are_not_contiguous() -> None:
    array = np.arange(12.0).reshape(3, 4)
    found = Weights.of({"t": array.T, "s": array[:, ::2]}, 0).arrays()
    np.testing.assert_array_equal(found["t"], array.T)
    np.testing.assert_array_equal(found["s"], array[:, ::2])


@given(st.integers(0, 2**20), st.integers(0, 7))
def test_the_checksum_sees_every_bit(position: int, bit: int) -> None:
    state = Weights.of({"a": np.arange(5.0), "b": np.ones((2, 3), np.float32)}, 3).to_state()
    buffer = state["buffer"].copy()
    buffer[position % buffer.size] ^= 1 << bit
    with pytest.raises(CheckpointError, match="version 3 do not match"):
        Weights.from_state({**state, "buffer": buffer})


def test_the_checksum_is_of_content_only() -> None:
    a, b = np.arange(4.0), np.arange(4, dtype=np.float32)
    base = Weights.of({"a": a}, 0).checksum()
    assert base == Weights.of({"a": a.copy()}, 99).checksum()
    assert base != Weights.of({"b": a}, 0).checksum()
    assert base != Weights.of({"a": a.reshape(2, 2)}, 0).checksum()
    assert base != Weights.of({"a": b}, 0).checksum()
