"""Robust Bellman errors (entry 70)."""

from __future__ import annotations

import pytest
import torch

from distrl.functional.bellman.robust import absolute_bellman, conjugate_huber, huber_bellman
from distrl.functional.distributions.quantile_loss import huber


def test_the_dual_form_is_the_huber_function():
    h = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    for delta, expected in ((0.5, 0.125), (3.0, 2.5), (-2.0, 1.5)):
        error = torch.tensor(delta, dtype=torch.float64)
        assert conjugate_huber(error, h).max().item() == pytest.approx(expected, abs=1e-8)
        assert huber(error, 1.0).item() == pytest.approx(expected)


def gradients(loss, *inputs):
    return torch.autograd.grad(loss.sum(), inputs, allow_unused=True)


def test_saddle_form_without_bound_is_gtd2():
    value, following, h = (torch.tensor([x], requires_grad=True) for x in (1.0, 2.0, 5.0))
    reward, discount, rho = torch.tensor([0.5]), torch.tensor([0.9]), 0.7
    losses = huber_bellman(value, following, h, reward, discount, float("inf"), rho, correction=False)
    delta = 0.5 + 0.9 * 2.0 - 1.0
    by_value, by_next = gradients(losses.value, value, following)
    assert (by_value.item(), by_next.item()) == pytest.approx((-rho * 5.0, rho * 0.9 * 5.0))
    (by_h,) = gradients(losses.auxiliary, h)
    assert by_h.item() == pytest.approx(5.0 - rho * delta)


@pytest.mark.parametrize(("h", "step", "clipped"), [(0.5, 0.7 * 1.3, 0.5), (3.0, 1.0, 1.0), (-3.0, -1.0, -1.0)])
def test_gradient_correction(h, step, clipped):
    value, following = torch.tensor([1.0], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    losses = huber_bellman(
        value, following, torch.tensor([h]), torch.tensor([0.5]), torch.tensor([0.9]), tau=1.0, rho=0.7
    )
    by_value, by_next = gradients(losses.value, value, following)
    assert by_value.item() == pytest.approx(-step)
    assert by_next.item() == pytest.approx(0.7 * 0.9 * clipped)


def test_absolute_form_moves_by_the_sign():
    value, following, h = (torch.tensor([x], requires_grad=True) for x in (1.0, 2.0, -0.1))
    losses = absolute_bellman(value, following, h, torch.tensor([0.5]), torch.tensor([0.9]))
    by_value, by_next = gradients(losses.value, value, following)
    assert (by_value.item(), by_next.item()) == pytest.approx((1.0, -0.9))


def test_rare_large_rewards_are_not_clipped_away():
    """Reward 1000 with probability 1/1000, no successor: the value is 1, where clipped errors would settle at 0.001."""
    value = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    h = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    reward = torch.zeros(1000, dtype=torch.float64)
    reward[0] = 1000.0
    zero = torch.zeros(1000, dtype=torch.float64)
    for _ in range(600):
        losses = huber_bellman(value.expand(1000), zero, h.expand(1000), reward, zero)
        by_value, by_h = gradients(losses.value.mean() + losses.auxiliary.mean(), value, h)
        with torch.no_grad():
            value -= 0.05 * by_value
            h -= 0.1 * by_h
    assert value.item() == pytest.approx(1.0, abs=0.01)
