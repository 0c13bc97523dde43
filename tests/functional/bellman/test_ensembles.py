"""Ensemble rules: truncation by count and by mass, mixture, lowest mean and lowest quantiles."""

from __future__ import annotations

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.functional.atoms import equal_probs
from distrl.functional.bellman.ensembles import minimum, mixture, rank_minimum, truncated
from tests.exact.distributional import wasserstein1


def test_truncation_by_mass_agrees_with_truncation_by_count():
    values = torch.randn(2, 5, 6, dtype=torch.float64)
    counted = truncated(values, equal_probs(values), 2)
    massed = truncated(values, torch.full_like(values, 1 / 6), 2)
    torch.testing.assert_close(massed.probs.sum(-1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(wasserstein1(counted, massed), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_truncation_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match="cannot drop 3 of the 3 atoms"):
        truncated(torch.zeros(2, 1, 3), equal_probs(torch.zeros(2, 1, 3)), 3)


def test_mixture_and_the_lowest():
    values = torch.tensor([[[0.0, 10.0]], [[2.0, 3.0]]])
    probs = equal_probs(values)
    mixed = mixture(values, probs)
    assert mixed.values.tolist() == [[0.0, 10.0, 2.0, 3.0]]
    assert mixed.probs.tolist() == [[0.25] * 4]
    assert rank_minimum(values, probs).values.tolist() == [[0.0, 3.0]]
    assert minimum(values, probs).values.tolist() == [[2.0, 3.0]]
