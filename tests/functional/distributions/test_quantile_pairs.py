"""The fast path of the quantile Huber loss against the plain expression."""

from __future__ import annotations

import pytest
import torch

from distrl.functional.atoms import equal_probs, midpoints
from distrl.functional.distributions.quantile_loss import quantile_huber
from distrl.functional.distributions.quantile_pairs import FEWEST, pairs, pays


@pytest.mark.parametrize("kappa", [0.3, 1.0, 100.0])
@pytest.mark.parametrize("critics", [(), (3,)], ids=["one", "ensemble"])
def test_equals_the_plain_expression(kappa, critics):
    torch.manual_seed(0)
    target, values = 2 * torch.randn(64, 30), torch.randn(*critics, 64, 25, requires_grad=True)
    taus = midpoints(25, target)
    assert pays(values, target, kappa)
    plain_probs = torch.full_like(target, 1 / 30)  # not one number seen from everywhere: the plain way
    plain = quantile_huber(values, taus, target, plain_probs, kappa)
    fast = quantile_huber(values, taus, target, equal_probs(target), kappa)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    slopes = [torch.autograd.grad((loss * (1 + loss.detach())).sum(), values)[0] for loss in (fast, plain)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-5)


def test_levels_of_every_row_and_kept_memory():
    torch.manual_seed(0)
    first, second = torch.randn(50, 8), torch.randn(40, 8)
    taus, target = torch.rand(50, 8), torch.randn(50, 100)
    loss, gradient = pairs(first, taus, target, 1.0)
    kept = loss.clone(), gradient.clone()
    pairs(second, taus[:40], target[:40], 1.0)
    assert torch.equal(loss, kept[0])
    assert torch.equal(gradient, kept[1])
    plain = quantile_huber(first.requires_grad_(), taus, target, torch.full_like(target, 0.01))
    torch.testing.assert_close(loss, plain.detach(), rtol=1e-4, atol=1e-5)


def test_where_it_does_not_pay():
    values, target = torch.zeros(10, 5), torch.zeros(10, 5)
    assert values.numel() * 5 < FEWEST
    assert not pays(values, target, 1.0)
    large, atoms = torch.zeros(500, 20), torch.zeros(500, 20)
    assert pays(large, atoms, 1.0)
    assert not pays(large, atoms, 0.0)  # the pinball loss has no Huber part
    assert not pays(large.double(), atoms.double(), 1.0)
