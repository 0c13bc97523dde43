"""Squashed Gaussian, state-dependent exploration and deterministic noise: densities, gradients, exploration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.control.models.actions.squashed import (
    BoxScale,
    DeterministicNoise,
    SquashedGaussian,
    StateDependentGaussian,
    squashed_sample,
)

UNIT = spaces.Box(-1.0, 1.0, (1,))
SKEWED = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))
double = torch.float64


def numbers(*values):
    return torch.tensor(values, dtype=double)


def squashed_params(mean, log_std, warm=0.0):
    mean, log_std = torch.broadcast_tensors(torch.as_tensor(mean, dtype=double), torch.as_tensor(log_std, dtype=double))
    return torch.cat((mean, log_std, torch.full_like(mean[..., :1], warm)), -1)


def grid(params, count=20001):
    """Actions over the unit box, rows of the same parameters, and each action's share of the box; fine at bounds."""
    u = torch.linspace(-7.2, 7.2, count, dtype=double).unsqueeze(-1)
    a = torch.tanh(u)
    return a, params.expand(count, -1), (1 - a.square()).squeeze(-1) * (14.4 / (count - 1))


def test_exact_log_probabilities():
    # Common base CB4: mean 0, std 1, scale 1, log-density before rounding.
    actions = SquashedGaussian(UNIT)
    for u, expected in ((1.0, -0.55138), (0.0, -0.91894)):
        params = squashed_params([0.0], [0.0])
        assert actions.logp(params, numbers(math.tanh(u))).item() == pytest.approx(expected, abs=6e-6)
        _, logp = squashed_sample(numbers(0.0), numbers(0.0), numbers(u))
        assert logp.item() == pytest.approx(expected, abs=6e-6)


def test_gradient_of_sample_and_logp():
    rng = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(5, 3, dtype=double, generator=rng) for _ in range(3))
    assert torch.autograd.gradcheck(
        lambda m, s: squashed_sample(m, s, noise), (mean.requires_grad_(), log_std.requires_grad_())
    )


def test_logp_of_a_recorded_action_equals_that_of_the_sample():
    rng = np.random.default_rng(0)
    for space in (UNIT, SKEWED):
        actions = SquashedGaussian(space)
        mean, log_std, noise = (torch.from_numpy(rng.normal(size=(50, actions.size))) for _ in range(3))
        unit, logp = squashed_sample(mean, log_std, noise)
        params = squashed_params(mean, log_std)
        action = actions.sample(params, noise)
        torch.testing.assert_close(action, actions.scale.to_env(unit))
        inside = (unit.abs() < 1 - 1e-6).all(-1)
        assert inside.sum() > 40
        torch.testing.assert_close(
            actions.logp(params, action)[inside], (logp - actions.scale.log_volume)[inside], rtol=1e-6, atol=1e-6
        )


def test_gradient_of_logp_of_a_recorded_action():
    actions = SquashedGaussian(SKEWED)
    params = squashed_params([[0.2, -0.4]], [[-0.3, 0.1]]).requires_grad_()
    action = torch.tensor([[0.7, 0.3]], dtype=double, requires_grad=True)
    assert torch.autograd.gradcheck(actions.logp, (params, action))


def test_saturated_actions_have_finite_densities_and_gradients():
    mean = torch.tensor([[40.0]], requires_grad=True)
    action, logp = squashed_sample(mean, torch.zeros(1, 1), torch.zeros(1, 1))
    assert action.item() == 1.0
    assert logp.item() == pytest.approx(2 * 40 - 2 * math.log(2) - 0.5 * math.log(2 * math.pi), rel=1e-6)
    (slope,) = torch.autograd.grad(logp.sum(), mean)
    assert slope.item() == pytest.approx(2.0)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.0), (-0.3, 0.4)])
def test_density_entropy_and_divergence_against_integrals(mean, log_std):
    actions = SquashedGaussian(UNIT)
    p, q, uniform = (
        squashed_params([[mean]], [[log_std]]),
        squashed_params([[0.1]], [[-0.2]]),
        squashed_params([[0.0]], [[0.0]], warm=1.0),
    )
    action, rows, step = grid(p)
    logp = actions.logp(rows, action)
    density = logp.exp() * step
    assert density.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert actions.entropy(p).item() == pytest.approx(-(density * logp).sum().item(), abs=1e-4)
    other = actions.logp(q.expand(len(action), -1), action)
    assert actions.kl(p, q).item() == pytest.approx((density * (logp - other)).sum().item(), abs=1e-4)
    assert actions.kl(p, uniform).item() == pytest.approx((density * logp).sum().item() + math.log(2), abs=1e-4)
    flat = -math.log(2)
    expected = (0.5 * step * (flat - logp)).sum().item()
    assert actions.kl(uniform, p).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert actions.kl(uniform, uniform).item() == pytest.approx(0.0, abs=1e-12)
    assert actions.kl(p, p).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kind", [SquashedGaussian, StateDependentGaussian, DeterministicNoise])
def test_warm_up_is_uniform_over_the_box(kind):
    actions = kind(SKEWED)
    params = torch.zeros(20000, actions.param_size)
    warm = 2 * actions.size if kind is not DeterministicNoise else actions.size + 1
    params[:, warm] = 1.0
    noise = torch.from_numpy(actions.draw_noise(np.random.default_rng(0), (20000,)))
    action = actions.sample(params, noise).numpy()
    assert (action >= SKEWED.low).all()
    assert (action <= SKEWED.high).all()
    share = (action - SKEWED.low) / (SKEWED.high - SKEWED.low)
    for column in share.T:  # Kolmogorov-Smirnov, 99.9 percent point
        gap = np.abs(np.sort(column) - (np.arange(20000) + 0.5) / 20000).max()
        assert gap < 1.95 / math.sqrt(20000)
    np.testing.assert_allclose(actions.logp(params[:3], torch.from_numpy(action[:3])), -math.log(4 * 0.5), rtol=1e-5)
    assert actions.entropy(params[0]).item() == pytest.approx(math.log(4 * 0.5), rel=1e-5)


def test_samples_follow_the_density():
    actions = SquashedGaussian(UNIT)
    params = squashed_params([[0.5]], [[-0.5]]).float().expand(50000, -1)
    noise = torch.from_numpy(actions.draw_noise(np.random.default_rng(1), (50000,)))
    samples = actions.sample(params, noise).double()
    edges = torch.linspace(-1, 1, 21, dtype=double)
    counts = torch.histc(samples, 20, -1, 1)
    fine, rows, step = grid(params[:1].double(), 40000)
    mass = torch.zeros(20, dtype=double)
    mass.index_add_(0, torch.bucketize(fine.squeeze(-1), edges[1:-1]), actions.logp(rows, fine).exp() * step)
    assert (counts / 50000 - mass).abs().max() < 0.01


def test_state_dependent_exploration_is_the_policys_own():
    actions = StateDependentGaussian(UNIT)
    params = torch.tensor([[0.2, -0.5, 0.0, 0.3]])
    for noise in (-2.0, 0.0, 2.0):
        torch.testing.assert_close(actions.sample(params, torch.tensor([[noise]])), torch.tensor([[math.tanh(0.5)]]))
    torch.testing.assert_close(actions.mode(params), torch.tensor([[math.tanh(0.2)]]))
    plain = SquashedGaussian(UNIT)
    action = torch.tensor([[0.4]])
    torch.testing.assert_close(actions.logp(params, action), plain.logp(params[:, :3], action))


def test_deterministic_noise():
    actions = DeterministicNoise(SKEWED)
    params = torch.tensor([[0.5, -1.0, 0.1, 0.0]])
    noise = torch.tensor([[1.0, -3.0]])
    action = actions.sample(params, noise)
    torch.testing.assert_close(action, torch.tensor([[1.0 + 2 * 0.6, 0.0]]))  # the second is clipped
    torch.testing.assert_close(actions.mode(params), torch.tensor([[2.0, 0.0]]))
    inside = -0.5 - math.log(0.1) - 0.5 * math.log(2 * math.pi) - 0.5 * actions.scale.log_volume
    assert actions.logp(params, action).item() == pytest.approx(inside + math.log(0.5), rel=1e-4)
    silent = torch.tensor([[0.5, -1.0, 0.0, 0.0]])
    assert torch.isfinite(actions.logp(silent, actions.sample(silent, noise))).all()
    assert actions.kl(params, params).item() == pytest.approx(0.0, abs=1e-6)


def test_scaling_both_ways():
    rng = np.random.default_rng(0)
    space = spaces.Box(rng.normal(size=(2, 3)) - 3, rng.normal(size=(2, 3)) + 3, dtype=np.float64)
    scale = BoxScale(space)
    unit = torch.from_numpy(rng.uniform(-1, 1, (5, 6)))
    action = scale.to_env(unit)
    assert action.shape == (5, 2, 3)
    assert all(space.contains(row) for row in action.numpy())
    torch.testing.assert_close(scale.to_unit(action), unit)
    torch.testing.assert_close(scale.to_env(torch.ones(6, dtype=double)), torch.from_numpy(space.high))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "finite"),
        (spaces.Box(0.0, 0.0, (2,)), "low < high"),
        (spaces.Discrete(3), "dqn"),
        (spaces.Box(0, 255, (2,), np.uint8), "real numbers"),
    ],
)
def test_spaces_that_cannot_be_scaled(space, words):
    with pytest.raises(ConfigError, match=words):
        SquashedGaussian(space)
