"""Atoms: moments, quantiles, Wasserstein-1, and the laws of ensembles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.functional.atoms import (
    atoms_cdf,
    atoms_mean,
    atoms_quantile,
    atoms_variance,
    bellman,
    equal_probs,
    wasserstein1,
)
from distrl.functional.bellman.ensemble_atoms import lowest_mean, lowest_quantiles, pool_atoms, truncate_atoms

numbers = st.floats(-100, 100, allow_nan=False, width=32)
laws = st.lists(st.tuples(numbers, st.floats(0.01, 1)), min_size=1, max_size=8)


def law(pairs: list[tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    values, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    return values, weights / weights.sum()


@given(laws, laws)
def test_wasserstein1_is_the_integral_of_the_difference_of_distribution_functions(first, second):
    one, two = law(first), law(second)
    points = np.unique(torch.cat((one[0], two[0])).numpy())
    expected = 0.0
    for left, right in itertools.pairwise(points):
        gap = float(one[1][one[0] <= left].sum() - two[1][two[0] <= left].sum())
        expected += abs(gap) * (right - left)
    assert wasserstein1(one, two).item() == pytest.approx(expected, abs=1e-9)
    assert wasserstein1(two, one).item() == pytest.approx(expected, abs=1e-9)


def test_wasserstein1_of_equal_counts_is_the_mean_distance_of_sorted_values():
    first, second = torch.randn(3, 16, dtype=torch.float64), torch.randn(3, 16, dtype=torch.float64)
    expected = (first.sort(-1).values - second.sort(-1).values).abs().mean(-1)
    found = wasserstein1((first, equal_probs(first)), (second, equal_probs(second)))
    torch.testing.assert_close(found, expected)


@given(laws, st.floats(0, 1))
def test_quantile_is_the_generalized_inverse_of_the_cdf(pairs, tau):
    values, probs = law(pairs)
    found = atoms_quantile(values, probs, tau)
    assert found in values
    assert atoms_cdf(values, probs, found) >= tau - 2e-6
    below = values[values < found]
    if len(below):
        assert atoms_cdf(values, probs, below.max()) < tau + 1e-9


def test_quantile_and_cdf_shapes_and_atoms_without_mass():
    values = torch.tensor([[1.0, 0.0, 2.0]])
    probs = torch.tensor([[0.5, 0.0, 0.5]])
    assert atoms_quantile(values, probs, 0.0).tolist() == [1.0]
    assert atoms_quantile(values, probs, torch.tensor([0.5, 0.6, 1.0])).tolist() == [[1.0, 2.0, 2.0]]
    assert atoms_cdf(values, probs, torch.tensor([0.0, 1.0])).tolist() == [[0.0, 0.5]]


@given(laws)
def test_moments(pairs):
    values, probs = law(pairs)
    mean = float((values * probs).sum())
    assert atoms_mean(values, probs).item() == pytest.approx(mean)
    assert atoms_variance(values, probs).item() == pytest.approx(float((probs * (values - mean) ** 2).sum()), abs=1e-9)


def test_bellman_of_scalars_and_of_channels():
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    assert bellman(reward, discount, torch.tensor([[2.0, 4.0], [2.0, 4.0]])).tolist() == [[2.0, 3.0], [2.0, 2.0]]
    vectors = torch.ones(2, 3, 2)
    found = bellman(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), discount, vectors)
    assert found[:, 0].tolist() == [[1.5, 2.5], [3.0, 4.0]]


def test_truncation_of_pooled_atoms():
    """Exact check of entry 77."""
    values = torch.tensor([[1.0, 2.0, 9.0], [0.0, 3.0, 4.0]])
    kept = truncate_atoms(values, drop=1)
    assert kept.values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert atoms_mean(*kept).item() == pytest.approx(1.5)
    assert atoms_mean(*truncate_atoms(values, drop=0)).item() == pytest.approx(19 / 6)


def test_truncation_by_mass_agrees_with_truncation_by_count():
    values = torch.randn(5, 2, 6, dtype=torch.float64)
    counted = truncate_atoms(values, 2)
    massed = truncate_atoms(values, 2, equal_probs(values))
    torch.testing.assert_close(massed.probs.sum(-1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(wasserstein1(counted, massed), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_truncation_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match="cannot drop 3 of the 3 atoms"):
        truncate_atoms(torch.zeros(2, 3), 3)


def test_pooling_and_the_lowest():
    values = torch.tensor([[0.0, 10.0], [2.0, 3.0]])
    probs = torch.full((2, 2), 0.5)
    pooled = pool_atoms(values, probs)
    assert pooled.values.tolist() == [0.0, 10.0, 2.0, 3.0]
    assert pooled.probs.tolist() == [0.25] * 4
    assert lowest_quantiles(values).tolist() == [0.0, 3.0]
    assert lowest_mean(values, probs).values.tolist() == [2.0, 3.0]
