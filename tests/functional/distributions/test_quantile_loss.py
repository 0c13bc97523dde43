"""Quantile regression: exact numbers, gradients, minima."""

from __future__ import annotations

import itertools

import pytest
import torch

from distrl.functional.atoms import atoms_quantile, equal_probs, midpoints
from distrl.functional.distributions.quantile_loss import cosine_features, fraction_term, huber, quantile_huber


def test_exact_number_of_qr():
    values, target = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0])
    taus = torch.tensor([0.25, 0.75])
    assert quantile_huber(values, taus, target, equal_probs(target)).item() == pytest.approx(0.625)


def test_one_level_at_one_half_is_half_the_huber_loss():
    """With kappa to infinity kappa * loss tends to u^2 / 4."""
    for u in (0.3, -2.0, 5.0):
        one = (torch.zeros(1), torch.tensor([0.5]), torch.tensor([u]), torch.ones(1))
        assert quantile_huber(*one).item() == pytest.approx(0.5 * huber(torch.tensor(u), 1.0).item())
        assert 1e4 * quantile_huber(*one, kappa=1e4).item() == pytest.approx(0.25 * u * u)


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_gradient_against_finite_differences(kappa):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.randn(4, 7, dtype=torch.float64, generator=generator)
    probs = torch.rand(4, 7, dtype=torch.float64, generator=generator).softmax(-1)
    taus = torch.rand(4, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda v: quantile_huber(v, taus, target, probs, kappa), values)


def test_the_minimum_is_the_targets_quantiles():
    target = torch.tensor([0.0, 1.0, 5.0, 7.0], dtype=torch.float64)
    probs = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
    taus = midpoints(4, target)
    at = atoms_quantile(target, probs, taus)
    best = quantile_huber(at, taus, target, probs, kappa=0.0)
    for _ in range(50):
        assert quantile_huber(at + torch.randn(4).double(), taus, target, probs, kappa=0.0) >= best - 1e-12


def test_fraction_gradient_is_that_of_the_wasserstein_distance():
    """W1(tau) = sum_i int |F^-1(w) - F^-1(tau_hat_i)| dw for F^-1(w) = w^2, by a fine sum and finite differences."""

    def distance(taus: torch.Tensor) -> torch.Tensor:
        edges = torch.cat((torch.zeros(1).double(), taus, torch.ones(1).double()))
        total = torch.zeros(()).double()
        for left, right in itertools.pairwise(edges):
            levels = left + (right - left) * midpoints(20000, edges)
            total = total + (right - left) * (levels**2 - ((left + right) / 2) ** 2).abs().mean()
        return total

    taus = torch.tensor([0.3, 0.55, 0.8], dtype=torch.float64)
    numeric = torch.stack(
        [(distance(taus + step) - distance(taus - step)) / 2e-5 for step in 1e-5 * torch.eye(3).double()]
    )
    edges = torch.cat((torch.zeros(1).double(), taus, torch.ones(1).double()))
    centers = (edges[1:] + edges[:-1]) / 2
    widths = edges.diff().requires_grad_()
    term = fraction_term(widths, taus**2, centers**2)
    (by_width,) = torch.autograd.grad(term, widths)
    assert term.item() == 0
    # d term / d tau_i, from the derivative by widths: tau_i = sum of the first i widths
    torch.testing.assert_close(by_width.diff().neg(), numeric, rtol=1e-3, atol=1e-6)


def test_cosine_features():
    found = cosine_features(torch.tensor(0.5, dtype=torch.float64), 5)
    torch.testing.assert_close(found, torch.tensor([1.0, 0, -1, 0, 1], dtype=torch.float64))
