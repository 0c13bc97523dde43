"""Epsilon-greedy as a distribution, and noisy layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distrl.control.models.actions.epsilon_greedy import EpsilonGreedy
from distrl.models.layers.noisy import NoisyLinear, redraw_noise

VALUES = torch.tensor([1.0, 3.0, 2.0, 0.0])
MASK = torch.tensor([True, False, True, True])


def params(epsilon: float) -> torch.Tensor:
    return torch.cat((VALUES, torch.tensor([epsilon])))


@pytest.mark.parametrize("mask", [None, MASK], ids=["free", "masked"])
def test_samples_have_the_probabilities(mask: torch.Tensor | None):
    actions, rng = EpsilonGreedy(4), np.random.default_rng(0)
    noise = torch.from_numpy(actions.draw_noise(rng, (40_000,)))
    drawn = actions.sample(params(0.3), noise, mask)
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = actions.probabilities(params(0.3), mask)
    assert float(expected.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)
    if mask is not None:
        assert share[1] == 0.0
    best = 1 if mask is None else 2
    assert int(actions.mode(params(0.3), mask)) == best
    assert float(expected[best]) == pytest.approx(0.7 + 0.3 / (4 if mask is None else 3))


@pytest.mark.parametrize("mask", [None, MASK], ids=["free", "masked"])
def test_logp_entropy_and_kl_are_those_of_the_probabilities(mask: torch.Tensor | None):
    actions = EpsilonGreedy(4)
    p, q = (actions.probabilities(params(epsilon), mask) for epsilon in (0.3, 0.6))
    for action in range(4):
        expected = torch.log(p[action].clamp_min(1e-30))
        torch.testing.assert_close(actions.logp(params(0.3), torch.tensor(action), mask), expected)
    inside = p > 0
    torch.testing.assert_close(actions.entropy(params(0.3), mask), -(p[inside] * p[inside].log()).sum())
    kl = (p[inside] * (p[inside] / q[inside]).log()).sum()
    torch.testing.assert_close(actions.kl(params(0.3), params(0.6), mask), kl)


def test_greedy_acting_has_finite_logp():
    actions = EpsilonGreedy(4)
    assert float(actions.logp(params(0.0), torch.tensor(1))) == 0.0
    assert float(actions.entropy(params(0.0))) == 0.0


def test_noisy_layers_by_hand():
    torch.manual_seed(0)
    layer = NoisyLinear(3, 2)
    redraw_noise(layer, np.random.default_rng(0))
    x = torch.randn(5, 3)
    weight = layer.weight + layer.weight_sigma * torch.outer(layer.eps_out, layer.eps_in)
    bias = layer.bias + layer.bias_sigma * layer.eps_out
    torch.testing.assert_close(layer(x), x @ weight.t() + bias)
    torch.testing.assert_close(layer.eval()(x), x @ layer.weight.t() + layer.bias)
    assert float(layer.weight_sigma.detach().max()) == pytest.approx(0.5 / 3**0.5)
    assert float(layer.weight.detach().abs().max()) <= 1.0 / 3**0.5


def test_noise_is_f_of_normals():
    """f(x) = sgn(x) sqrt|x|: the mean of f(x)^2 is that of |x|, sqrt(2 / pi)."""
    layer = NoisyLinear(40_000, 2)
    layer.redraw(np.random.default_rng(0))
    assert float(layer.eps_in.square().mean()) == pytest.approx((2.0 / np.pi) ** 0.5, abs=0.02)
    assert float(layer.eps_in.mean()) == pytest.approx(0.0, abs=0.02)
