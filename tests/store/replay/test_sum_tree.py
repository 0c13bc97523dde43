"""The sum tree: exact draws, sums that never drift, and two implementations with equal bits."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.store.replay.sum_tree import SumTree

MASSES = st.one_of(st.just(0.0), st.floats(1e-12, 1e12), st.floats(0.5, 2))
needs_numba = pytest.mark.skipif(not SumTree(1).is_compiled, reason="the extra `fast` is not installed")


def chi_square_bound(degrees: int) -> float:
    """Exceeded with probability below 1e-5 (Wilson-Hilferty)."""
    return degrees * (1 - 2 / (9 * degrees) + 4.3 * np.sqrt(2 / (9 * degrees))) ** 3


@pytest.mark.parametrize("size", [1, 15, 16, 17, 300, 70_000])
def test_every_item_owns_its_interval(size: int) -> None:
    rng = np.random.default_rng(size)
    tree = SumTree(size, compiled=False)
    mass = rng.integers(0, 4, size).astype(float)  # whole numbers: sums are exact, so edges are known
    mass[-1] = 1
    tree.set_range(0, size, mass)
    assert tree.total == mass.sum()
    edges = np.concatenate([[0], np.cumsum(mass)])
    owners = np.flatnonzero(mass)
    np.testing.assert_array_equal(tree.find(edges[owners]), owners)
    np.testing.assert_array_equal(tree.find(edges[owners + 1] - 0.25), owners)


@needs_numba
@given(
    size=st.sampled_from([1, 20, 260, 5000, 70_000]),
    changes=st.lists(st.tuples(st.booleans(), st.integers(0, 2**31), MASSES), min_size=1, max_size=8),
)
@settings(max_examples=60)
def test_numpy_and_compiled_loops_give_equal_bits(size: int, changes: list[tuple[bool, int, float]]) -> None:
    trees = [SumTree(size, compiled) for compiled in (False, True)]
    for whole, seed, mass in changes:
        rng = np.random.default_rng(seed)
        index, values = rng.integers(0, size, 40), mass * rng.random(40)
        start, stop = sorted(rng.integers(0, size + 1, 2).tolist())
        for tree in trees:
            if whole:
                tree.set_range(start, stop, mass)
            else:
                tree.set(index, values)
    one, other = trees
    assert one.total == other.total
    for left, right in zip([*one.masses, *one.sums], [*other.masses, *other.sums], strict=True):
        np.testing.assert_array_equal(left, right)
    if one.total > 0:
        draws = [tree.draw(500, np.random.default_rng(1)) for tree in trees]
        np.testing.assert_array_equal(*draws)
        assert (one.mass[draws[0]] > 0).all()


def test_sums_never_drift() -> None:
    rng = np.random.default_rng(0)
    tree = SumTree(3000)
    for _ in range(300):
        tree.set(rng.integers(0, 3000, 64), 10.0 ** rng.uniform(-9, 9, 64))
    before, total = [level.copy() for level in tree.sums], tree.total
    tree.set_range(0, tree.size, tree.mass[: tree.size].copy())
    assert tree.total == total
    for left, right in zip(before, tree.sums, strict=True):
        np.testing.assert_array_equal(left, right)


@given(mass=st.lists(MASSES, min_size=1, max_size=400).filter(any), seed=st.integers(0, 2**31))
@settings(max_examples=60)
def test_what_has_no_mass_is_never_drawn(mass: list[float], seed: int) -> None:
    tree = SumTree(len(mass), compiled=False)
    tree.set_range(0, len(mass), np.array(mass))
    targets = np.concatenate([np.random.default_rng(seed).random(50) * tree.total, [0.0, np.nextafter(tree.total, 0)]])
    assert all(mass[i] > 0 for i in tree.find(targets))


def test_draws_follow_the_masses() -> None:
    rng = np.random.default_rng(3)
    mass = rng.random(200) ** 3
    tree = SumTree(200)
    tree.set(np.arange(200), mass)
    counts = np.bincount(tree.draw(200_000, rng), minlength=200)
    expected = 200_000 * mass / mass.sum()
    enough = expected >= 5
    assert ((counts - expected)[enough] ** 2 / expected[enough]).sum() < chi_square_bound(int(enough.sum()))


def test_demanding_numba_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name == "distrl.store.replay" and "sum_tree_compiled" in (args[2] or ()):  # type: ignore[operator]
            raise ImportError("no numba")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert not SumTree(3, compiled=None).is_compiled
    with pytest.raises(ConfigError, match="numba"):
        SumTree(3, compiled=True)
