"""Lambda-targets and V-trace targets that are distributions."""

from __future__ import annotations

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.functional.atoms import atoms_mean, equal_probs
from distrl.functional.distributions.base import make_return_distribution
from distrl.functional.distributions.projections import make_grid, project_categorical
from distrl.functional.returns.distributional import (
    lambda_particles,
    lambda_projected,
    vtrace_particles,
    vtrace_projected,
)
from distrl.functional.returns.lambda_targets import lambda_atoms, replacement_size
from distrl.functional.returns.state_values import Steps, lambda_returns, vtrace
from tests.exact.distributional import wasserstein1

T, B, M = 6, 3, 4
FAMILIES = ["scalar", "categorical", "two_hot", "quantile", "iqn", "fqf", "gaussian", "mixture"]


def rollout(seed: int = 0, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    reward = torch.randn(T, B, generator=generator, dtype=dtype)
    terminated = torch.rand(T, B, generator=generator) < 0.15
    truncated = torch.rand(T, B, generator=generator) < 0.15
    log_ratio = 0.5 * torch.randn(T, B, generator=generator, dtype=dtype)
    return reward, terminated, truncated, log_ratio, generator


def consistent_values(done, generator):
    """Values of every state, and of its successor: the next row's, unless the episode ends between."""
    own, following = torch.randn(2, T, B, M, generator=generator, dtype=torch.float64)
    following[:-1] = torch.where(done[:-1, :, None], following[:-1], own[1:])
    return own, following


def slow_particles(reward, next_values, terminated, truncated, gamma, lam, uniform):
    """Sampled replacement by its definition."""
    target = torch.empty_like(next_values)
    for t in reversed(range(T)):
        for b in range(B):
            for j in range(next_values.shape[-1]):
                ends = bool(terminated[t, b] | truncated[t, b]) or t == T - 1
                follow = not ends and uniform[t, b, j] < lam
                ahead = target[t + 1, b, j] if follow else next_values[t, b, j]
                target[t, b, j] = reward[t, b] + gamma * (0.0 if terminated[t, b] else 1.0) * ahead
    return target


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_particles_follow_the_definition(lam):
    reward, terminated, truncated, _, generator = rollout()
    values = torch.randn(T, B, M, generator=generator, dtype=torch.float64)
    uniform = torch.rand(T, B, M, generator=generator, dtype=torch.float64)
    found = lambda_particles(Steps(reward, values, values, terminated, truncated), 0.9, lam, uniform)
    expected = slow_particles(reward, values, terminated, truncated, 0.9, lam, uniform)
    torch.testing.assert_close(found.values, expected)


def test_the_mean_over_draws_is_the_lambda_return_and_vtrace():
    reward, terminated, truncated, log_ratio, generator = rollout(1)
    own, following = consistent_values(terminated | truncated, generator)
    many = 20_000 // M
    uniform = torch.rand(T, B, M * many, generator=generator, dtype=torch.float64)
    own_many, following_many = own.repeat(1, 1, many), following.repeat(1, 1, many)
    many_steps = Steps(reward, own_many, following_many, terminated, truncated)
    mean_steps = Steps(reward, own.mean(-1), following.mean(-1), terminated, truncated)
    found = lambda_particles(many_steps, 0.9, 0.7, uniform)
    expected = lambda_returns(mean_steps, 0.9, 0.7)
    torch.testing.assert_close(atoms_mean(*found), expected, atol=0.05, rtol=0)
    found = vtrace_particles(many_steps, log_ratio, 0.9, 0.7, uniform)
    expected = vtrace(mean_steps, log_ratio, 0.9, 0.7).vs
    torch.testing.assert_close(atoms_mean(*found), expected, atol=0.05, rtol=0)


def test_projected_means_are_exact_and_distributions_agree_with_particles():
    reward, terminated, truncated, log_ratio, generator = rollout(2)
    grid = make_grid(-20, 20, 401)
    own, following = consistent_values(terminated | truncated, generator)
    own_probs, probs = (project_categorical(v, equal_probs(v), -20, 20, 401) for v in (own, following))
    grid_steps = Steps(reward, own_probs, probs, terminated, truncated)
    mean_steps = Steps(reward, own.mean(-1), following.mean(-1), terminated, truncated)
    found = lambda_projected(grid_steps, 0.9, 0.7, grid)
    expected = lambda_returns(mean_steps, 0.9, 0.7)
    torch.testing.assert_close(atoms_mean(*found), expected)
    torch.testing.assert_close(found.probs.sum(-1), torch.ones(T, B, dtype=torch.float64))
    many = 5000
    uniform = torch.rand(T, B, M * many, generator=generator, dtype=torch.float64)
    following = following.repeat(1, 1, many)
    particles = lambda_particles(mean_steps._replace(next_value=following), 0.9, 0.7, uniform)
    assert wasserstein1(found, particles).max() < 0.08
    traced = vtrace_projected(grid_steps, log_ratio, 0.9, 0.7, grid)
    expected = vtrace(mean_steps, log_ratio, 0.9, 0.7).vs
    torch.testing.assert_close(atoms_mean(*traced), expected)


def test_spread_does_not_grow_with_refitting():
    """Reward N(0, 1), one step, refitted to its own targets: the spread stays 1."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.zeros(32)
    end = torch.ones(1, 4000, dtype=torch.bool)
    for _ in range(3):
        reward = torch.randn(1, 4000, generator=generator)
        uniform = torch.rand(1, 4000, 32, generator=generator)
        values = theta.expand(1, 4000, 32)
        target = lambda_particles(Steps(reward, values, values, end, ~end), 0.9, 0.9, uniform)
        theta = target.values.flatten().quantile((torch.arange(32) + 0.5) / 32)
        assert target.values.std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_target(family, off_policy):
    reward, terminated, truncated, log_ratio, generator = rollout(3, torch.float32)
    distribution = make_return_distribution(family)
    size = distribution.param_size
    copies = 400  # of every environment: draws average out
    reward, terminated, truncated, log_ratio = (x.repeat(1, copies) for x in (reward, terminated, truncated, log_ratio))
    params = torch.randn(size, generator=generator).expand(T, B * copies, size).clone()
    if family == "fqf":
        params[..., 64:] = 1 / 32
    if family == "two_hot":
        params = torch.zeros(T, B * copies, size)
    if family == "quantile":
        params = params.sort(-1).values
    noise = replacement_size(distribution)
    uniform = torch.rand(T, B * copies, noise, generator=generator) if noise else None
    ratio = log_ratio if off_policy else None
    steps = Steps(reward, params, params, terminated, truncated)
    target = lambda_atoms(distribution, steps, 0.9, 0.7, uniform, log_ratio=ratio)
    assert target.values.shape[:2] == reward.shape
    torch.testing.assert_close(target.probs.sum(-1), torch.ones_like(reward))
    mean = distribution.mean(params)
    steps = steps._replace(value=mean, next_value=mean)
    expected = vtrace(steps, log_ratio, 0.9, 0.7).vs if off_policy else lambda_returns(steps, 0.9, 0.7)
    found, expected = (x.reshape(T, copies, B).mean(1) for x in (atoms_mean(*target), expected))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    loss = distribution.loss(params.requires_grad_(), *target)
    assert loss.shape == reward.shape
    assert loss.isfinite().all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="joint learns several reward channels"):
        replacement_size(make_return_distribution("joint"))
    reward, terminated, truncated, log_ratio, _ = rollout()
    values = torch.zeros(T, B, M, dtype=torch.float64)
    steps = Steps(reward, values, values, terminated, truncated)
    with pytest.raises(ConfigError, match="c_bar <= rho_bar <= 1"):
        vtrace_particles(steps, log_ratio, 0.9, 1.0, values, rho_bar=2.0)
    quantile = make_return_distribution("quantile", size=M)
    with pytest.raises(ValueError, match="needs uniform noise"):
        lambda_atoms(quantile, steps, 0.9, 0.7)
