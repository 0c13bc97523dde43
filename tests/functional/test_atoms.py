"""Atoms: moments, quantiles and Wasserstein-1."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.functional.atoms import atoms_cdf, atoms_mean, atoms_quantile, atoms_variance, bellman, equal_probs
from tests.exact.distributional import wasserstein1

numbers = st.floats(-100, 100, allow_nan=False, width=32)
distributions = st.lists(st.tuples(numbers, st.floats(0.01, 1)), min_size=1, max_size=8)


def distribution(pairs: list[tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    values, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    return values, weights / weights.sum()


@given(distributions, distributions)
def test_wasserstein1_is_the_integral_of_the_difference_of_distribution_functions(first, second):
    one, two = distribution(first), distribution(second)
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


@given(distributions, st.floats(0, 1))
def test_quantile_is_the_generalized_inverse_of_the_cdf(pairs, tau):
    values, probs = distribution(pairs)
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


@given(distributions)
def test_moments(pairs):
    values, probs = distribution(pairs)
    mean = float((values * probs).sum())
    assert atoms_mean(values, probs).item() == pytest.approx(mean)
    assert atoms_variance(values, probs).item() == pytest.approx(float((probs * (values - mean) ** 2).sum()), abs=1e-9)


def test_bellman_of_scalars_and_of_channels():
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    assert bellman(reward, discount, torch.tensor([[2.0, 4.0], [2.0, 4.0]])).tolist() == [[2.0, 3.0], [2.0, 2.0]]
    vectors = torch.ones(2, 3, 2)
    found = bellman(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), discount, vectors)
    assert found[:, 0].tolist() == [[1.5, 2.5], [3.0, 4.0]]
