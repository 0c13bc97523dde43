"""Masked statistics, also of empty and constant batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distrl.functional.statistics import (
    approx_kl,
    effective_sample_size,
    explained_variance,
    masked_mean,
    masked_normalize,
)

X = torch.tensor([1.0, 2.0, 6.0, 100.0], dtype=torch.float64)
MASK = torch.tensor([True, True, True, False])


def test_masked_mean():
    assert masked_mean(X, MASK).item() == 3.0
    assert masked_mean(X).item() == 27.25
    assert masked_mean(X, torch.zeros(4, dtype=torch.bool)).item() == 0.0
    assert masked_mean(torch.zeros(0)).item() == 0.0


def test_masked_elements_send_no_gradient_even_when_not_finite():
    x = torch.tensor([1.0, 3.0, float("nan"), float("inf")], requires_grad=True)
    mean = masked_mean(x, torch.tensor([True, True, False, False]))
    mean.backward()
    assert mean.item() == 2.0
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("mask", [None, MASK])
def test_masked_normalize(mask):
    kept = X.numpy() if mask is None else X.numpy()[:3]
    found = masked_normalize(X, mask).numpy()
    np.testing.assert_allclose(found[: len(kept)], (kept - kept.mean()) / (kept.std(ddof=1) + 1e-8), rtol=1e-12)
    assert found[len(kept) :].tolist() == [0.0] * (4 - len(kept))


@pytest.mark.parametrize(
    ("x", "mask"),
    [
        (torch.full((5,), 0.3), None),
        (torch.tensor([7.0]), None),
        (torch.zeros(0), None),
        (torch.full((5,), 0.3), torch.ones(5, dtype=torch.bool)),
        (torch.tensor([7.0, 8.0]), torch.tensor([True, False])),
        (torch.tensor([7.0, 8.0]), torch.tensor([False, False])),
    ],
)
def test_nothing_to_scale_becomes_zeros(x, mask):
    found = masked_normalize(x, mask)
    assert found.shape == x.shape
    assert found.abs().max().item() < 1e-6 if len(x) else True


def test_explained_variance():
    returns = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert explained_variance(returns + 5.0, returns).item() == pytest.approx(1.0)  # an offset is not variance
    assert explained_variance(torch.zeros(4), returns).item() == 0.0
    assert explained_variance(-returns, returns).item() == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(4)).item() == 0.0
    found = explained_variance(torch.tensor([0.0, 1.0, 2.0, 99.0]), returns, MASK).item()
    assert found == pytest.approx(1.0)


def test_approx_kl_is_unbiased_and_never_negative():
    old = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    new = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    terms = approx_kl((new / old).log())
    assert (terms >= 0).all()
    exact = (old * (old / new).log()).sum().item()
    assert (old * terms).sum().item() == pytest.approx(exact, abs=1e-12)
    assert approx_kl(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_approx_kl_keeps_small_numbers_in_float32():
    assert approx_kl(torch.tensor([1e-3])).item() == pytest.approx(5.0e-7, rel=0.01)


def test_effective_sample_size():
    assert effective_sample_size(torch.zeros(7)).item() == pytest.approx(7.0)
    assert effective_sample_size(torch.tensor([0.0, -1000.0, -1000.0])).item() == pytest.approx(1.0)
    assert effective_sample_size(torch.tensor([500.0, 500.0])).item() == pytest.approx(2.0)  # exp would overflow
    weights = torch.tensor([1.0, 2.0])
    assert effective_sample_size(weights.log()).item() == pytest.approx(9 / 5)
    assert effective_sample_size(torch.zeros(4), MASK).item() == pytest.approx(3.0)
    assert effective_sample_size(torch.zeros(4), torch.zeros(4, dtype=torch.bool)).item() == 0.0
    assert not math.isnan(effective_sample_size(torch.zeros(0)).item())


@pytest.mark.parametrize("masked", [False, True])
def test_rounding_noise_is_not_scaled_up(masked: bool) -> None:
    noise = torch.tensor([0.0, 1.0, -1.0, 1.0]) * torch.finfo(torch.float32).eps
    x = 2.0 * (1.0 + noise)
    mask = torch.ones(4, dtype=torch.bool) if masked else None
    assert masked_normalize(x, mask).abs().max() < 1e-6
    assert masked_normalize(x * torch.tensor([1.0, 1.001, 0.999, 1.0]), mask).abs().max() > 0.5
