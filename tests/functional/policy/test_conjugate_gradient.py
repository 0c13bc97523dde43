"""Conjugate gradients, and the length of a trust-region step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distrl.functional.policy.conjugate_gradient import conjugate_gradient, trust_region_scale


@pytest.mark.parametrize("seed", range(20))
def test_five_unknowns_are_solved_in_five_iterations(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(5, 5))
    matrix = torch.from_numpy(root @ root.T + 0.5 * np.eye(5))
    b = torch.from_numpy(rng.normal(size=5))
    calls = []

    def matvec(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return matrix @ v

    x = conjugate_gradient(matvec, b, iterations=5, tolerance=0.0)
    np.testing.assert_allclose(x.numpy(), np.linalg.solve(matrix.numpy(), b.numpy()), atol=1e-6)
    assert len(calls) <= 5


def test_no_gradient_no_move():
    x = conjugate_gradient(lambda v: v, torch.zeros(3))
    assert x.tolist() == [0.0, 0.0, 0.0]
    assert trust_region_scale(x, x, 0.01).item() == 0.0


def test_it_stops_when_the_residual_is_small():
    calls = []

    def matvec(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return 3.0 * v

    assert conjugate_gradient(matvec, torch.ones(4)).tolist() == pytest.approx([1 / 3] * 4)
    assert len(calls) == 1


def test_negative_curvature_ends_the_search_with_what_was_found():
    assert conjugate_gradient(lambda v: -v, torch.ones(2)).tolist() == [0.0, 0.0]
    assert trust_region_scale(torch.ones(2), -torch.ones(2), 0.01).item() == 0.0


def test_b_is_left_as_it_was():
    b = torch.tensor([1.0, 2.0], requires_grad=True)
    x = conjugate_gradient(lambda v: 2 * v, b)
    assert b.tolist() == [1.0, 2.0]
    assert not x.requires_grad


@pytest.mark.parametrize(("damping", "length"), [(0.0, math.sqrt(0.02)), (0.1, math.sqrt(0.02 / 1.1))])
def test_step_in_the_mean_of_a_unit_gaussian(damping, length):
    """F is the identity: without damping in x'Fx the step is sqrt(2 max_kl) = .1414, with .1 left in it .1348."""
    gradient = torch.tensor([3.0, -4.0], dtype=torch.float64)
    x = conjugate_gradient(lambda v: 1.1 * v, gradient)  # solved with damping either way
    step = trust_region_scale(x, (1.0 + damping) * x, 0.01) * x
    assert step.norm().item() == pytest.approx(length, abs=1e-12)
    assert step.norm().item() == pytest.approx({0.0: 0.1414, 0.1: 0.1348}[damping], abs=5e-5)
    assert (step / step.norm()).tolist() == pytest.approx([0.6, -0.8])
    kl = 0.5 * step.square().sum().item()
    assert kl <= 0.01 + 1e-12


def test_fisher_products_by_differentiating_the_kl_twice():
    """The Hessian of KL(old || new) of a categorical at new = old is diag(p) - p p'."""
    logits = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    p = logits.softmax(-1)
    kl = (p.detach() * (p.detach().log() - logits.log_softmax(-1))).sum()
    (gradient,) = torch.autograd.grad(kl, logits, create_graph=True)

    def fisher(v: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(gradient @ v, logits, retain_graph=True)[0] + 0.1 * v

    b = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    dense = np.diag(p.detach().numpy()) - np.outer(p.detach().numpy(), p.detach().numpy()) + 0.1 * np.eye(3)
    found = conjugate_gradient(fisher, b, iterations=3, tolerance=0.0)
    np.testing.assert_allclose(found.numpy(), np.linalg.solve(dense, b.numpy()), atol=1e-8)
