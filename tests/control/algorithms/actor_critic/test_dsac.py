"""Distributional soft actor-critic: the exact checks of entry 100, its refinements, and the quantile form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distrl.functional.distributions.gaussian import gaussian_loss
from distrl.functional.risk.measures import make_risk
from tests.support.continuous_cases import learn, make_batch, make_learner

ONE = torch.ones(1, 1)


def slopes(mean, sigma, target, **options):
    mean, sigma = torch.tensor([mean], requires_grad=True), torch.tensor([sigma], requires_grad=True)
    loss = gaussian_loss(mean, sigma, torch.tensor([[target]]), ONE, **options)
    return tuple(slope.item() for slope in torch.autograd.grad(loss.sum(), (mean, sigma)))


def test_exact_gradients():
    assert slopes(1.0, 2.0, 4.0) == pytest.approx((-0.75, -0.625))  # y - Q = 3
    assert slopes(1.0, 1.0, 4.0)[0] == pytest.approx(-3.0)  # sigma 1: half the squared error's
    assert abs(slopes(1.0, 4.0, 4.0)[0]) < abs(slopes(1.0, 2.0, 4.0)[0])  # unsure critics move less
    clipped = slopes(1.0, 2.0, 4.0, clip=1.0)
    assert clipped == pytest.approx((-0.75, -(1.0 - 4.0) / 8.0))  # the bound is for sigma alone


def test_losses_use_the_running_sigma():
    learner = make_learner("dsac")
    params = torch.randn(2, 8, 2, requires_grad=True)
    target = torch.randn(8, 1) * 30
    losses = learner.critic_losses(params, target, torch.ones(8, 1))
    (gradient,) = torch.autograd.grad(losses.sum(), params)
    mean, sigma = (part.detach() for part in learner.distribution.split(params))
    running = sigma.mean(1, keepdim=True)  # the first batch begins it
    torch.testing.assert_close(learner.sigma, running)
    scale = running.square() + 0.1
    error = target.squeeze(-1) - mean
    torch.testing.assert_close(gradient[..., 0], -scale * error / (sigma.square() + 0.1))
    bounded = torch.minimum(error.abs(), 3 * running)
    by_sigma = -scale * (bounded.square() - sigma.square()) / (sigma**3 + 0.1)
    torch.testing.assert_close(gradient[..., 1], by_sigma * torch.sigmoid(params.detach()[..., 1]))
    learner.critic_losses(params.detach() + torch.tensor([0.0, 2.0]), target, torch.ones(8, 1))
    moved = F.softplus(params.detach()[..., 1] + 2).mean(1, keepdim=True) + 0.01
    torch.testing.assert_close(learner.sigma, running + 0.005 * (moved - running))


def test_target_law_is_that_of_the_lower_critic():
    learner = make_learner("dsac")
    batch = make_batch()
    action = torch.zeros(32, 2)
    with torch.no_grad():
        distribution = learner.next_return(batch.obs, action, np.random.default_rng(0))
        params = learner.target_critics(batch.obs, action)
    mean, sigma = learner.distribution.split(params)
    lower = mean.argmin(0)
    rows = torch.arange(32)
    found = (distribution.values * distribution.probs).sum(-1)
    torch.testing.assert_close(found, mean[lower, rows], rtol=1e-4, atol=1e-5)
    spread = (distribution.probs * (distribution.values - found.unsqueeze(-1)).square()).sum(-1).sqrt()
    torch.testing.assert_close(spread, sigma[lower, rows], rtol=1e-3, atol=1e-4)


def test_the_first_version():
    learner = make_learner(
        "dsac",
        critics=1,
        clip_sigmas=None,
        scale_gradients=False,
        critic_head={"name": "gaussian", "sigma_min": 1.0, "clip": 10.0},
    )
    assert learner.distribution.clip == 10.0
    assert np.isfinite(learn(learner, [make_batch()])["loss/critic"])


def test_quantile_form():
    learner = make_learner("dsac_quantile", risk={"name": "cvar", "level": 0.25})
    batch, action = make_batch(), torch.zeros(32, 2)
    params = learner.critics(batch.obs, action)
    measure = make_risk("cvar", level=0.25)
    values = torch.stack([measure(*learner.distribution.atoms(one)) for one in params])
    torch.testing.assert_close(learner.action_value(batch.obs, action), values.amin(0))
    with torch.no_grad():
        distribution = learner.next_return(batch.obs, action, np.random.default_rng(0))
    torch.testing.assert_close(distribution.values, params.detach().sort(-1).values.amin(0))
