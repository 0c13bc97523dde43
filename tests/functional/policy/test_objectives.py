"""Objectives and losses: tables worked out by hand, and gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from distrl.functional.policy import objectives as o


def one(x: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64, requires_grad=grad)


def value_and_slope(f: Callable[[torch.Tensor], torch.Tensor], x: float) -> tuple[float, float]:
    at = one(x, grad=True)
    result = f(at)
    result.backward()
    assert at.grad is not None
    return result.item(), at.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.3, 1.0, 1.2, 0.0),
        (1.3, -1.0, -1.3, -1.0),
        (0.7, 1.0, 0.7, 1.0),
        (0.7, -1.0, -0.8, 0.0),
        (1.0, 2.0, 2.0, 2.0),
        (1.1, -2.0, -2.2, -2.0),
    ],
)
def test_ppo_table(ratio, advantage, objective, slope):
    found = value_and_slope(lambda r: o.clipped_surrogate(r, one(advantage), 0.2), ratio)
    assert found == pytest.approx((objective, slope), abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (5.0, -1.0, -3.0, 0.0),  # bounded at 3 A
        (2.0, -1.0, -2.0, -1.0),  # not reached
        (0.5, -1.0, -0.8, 0.0),  # the usual clip
        (5.0, 1.0, 1.2, 0.0),  # good actions are as before
    ],
)
def test_dual_clip_bounds_bad_actions(ratio, advantage, objective, slope):
    found = value_and_slope(lambda r: o.clipped_surrogate(r, one(advantage), 0.2, dual_clip=3.0), ratio)
    assert found == pytest.approx((objective, slope), abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.1, 1.0, 1.075, 0.5),
        (1.2, 1.0, 1.1, 0.0),
        (1.3, 1.0, 1.075, -0.5),
        (0.8, -1.0, -0.9, 0.0),
        (1.0, -3.0, -3.0, -3.0),
    ],
)
def test_spo_table(ratio, advantage, objective, slope):
    found = value_and_slope(lambda r: o.spo_objective(r, one(advantage), 0.2), ratio)
    assert found == pytest.approx((objective, slope), abs=1e-12)


@pytest.mark.parametrize("advantage", [-2.0, -0.1, 0.3, 5.0])
def test_spo_is_largest_at_one_plus_or_minus_eps(advantage):
    ratios = torch.linspace(0.0, 3.0, 3001, dtype=torch.float64)
    best = ratios[o.spo_objective(ratios, torch.full_like(ratios, advantage), 0.2).argmax()].item()
    assert best == pytest.approx(1.2 if advantage > 0 else 0.8, abs=1e-3)


def test_the_first_gradient_of_every_ratio_objective_is_the_policy_gradient():
    torch.manual_seed(0)
    advantage = torch.randn(50, dtype=torch.float64)
    logits = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(-1)[:, 1]
    ratio = (logp - logp.detach()).exp()
    assert (ratio == 1).all()
    (expected,) = torch.autograd.grad(o.policy_gradient(logp, advantage).sum(), logits, retain_graph=True)
    for objective in (o.clipped_surrogate(ratio, advantage, 0.2, 3.0), o.spo_objective(ratio, advantage, 0.2)):
        (found,) = torch.autograd.grad(objective.sum(), logits, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


OLD = torch.tensor([0.4, -0.2, 0.1, 0.9, 0.0, 1.5], dtype=torch.float64)
TARGET = torch.tensor([1.0, -2.0, 0.15, 0.2, 0.3, 1.2], dtype=torch.float64)
SIGNED = torch.tensor([1.0, -1.3, 0.2, -0.7, 2.0, -3.0], dtype=torch.float64)
DIFFERENTIABLE = {
    "policy_gradient": lambda x: o.policy_gradient(x, SIGNED),
    "clipped_surrogate": lambda x: o.clipped_surrogate(x.exp(), SIGNED, 0.2),
    "dual_clip": lambda x: o.clipped_surrogate(x.exp(), SIGNED, 0.2, 1.5),
    "spo": lambda x: o.spo_objective(x.exp(), SIGNED, 0.2),
    "value_loss": lambda x: o.value_loss(x, TARGET),
    "clipped_value_loss": lambda x: o.clipped_value_loss(x, OLD, TARGET, 0.25),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_against_finite_differences(name):
    f = DIFFERENTIABLE[name]
    x = torch.tensor([0.31, -0.52, 0.05, 1.13, -0.11, 0.77], dtype=torch.float64, requires_grad=True)
    per_element = f(x)
    assert per_element.shape == x.shape
    (found,) = torch.autograd.grad(per_element.sum(), x)
    step = 1e-6
    with torch.no_grad():
        expected = (f(x + step) - f(x - step)) / (2 * step)  # element i depends on x_i alone
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_clipped_value_loss_by_hand():
    # V moved from 0 to 1, allowed .2; R = 1: max(0, (.2 - 1)^2) / 2.  R = -1: max(4, 1.44) / 2
    value, old = torch.ones(2), torch.zeros(2)
    found = o.clipped_value_loss(value, old, torch.tensor([1.0, -1.0]), 0.2)
    assert found.tolist() == pytest.approx([0.32, 2.0])


def test_value_loss_without_clip():
    value, target = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    assert o.clipped_value_loss(value, torch.zeros(2), target, None).tolist() == [2.0, 0.0]


def test_truncated_importance_weight():
    log_ratio = torch.tensor([0.5, 2.0, 1e-30, 1e6]).log().requires_grad_()
    found = o.truncated_importance_weight(log_ratio, 1.0)
    assert found.tolist() == pytest.approx([0.5, 1.0, 0.0, 1.0])
    assert not found.requires_grad
    assert o.truncated_importance_weight(torch.tensor([2.0]).log(), float("inf")).item() == pytest.approx(2.0)
    assert o.truncated_importance_weight(torch.tensor([1e4]), 2.0).item() == 2.0


@pytest.mark.parametrize(("kl", "after"), [(0.0066, 0.5), (0.0067, 1.0), (0.01, 1.0), (0.0149, 1.0), (0.0151, 2.0)])
def test_kl_coefficient_halves_and_doubles(kl, after):
    assert o.adapt_kl_coefficient(1.0, kl, 0.01) == after
