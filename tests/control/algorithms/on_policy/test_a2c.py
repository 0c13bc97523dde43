"""A2C: one step on the policy gradient, by RMSprop."""

from __future__ import annotations

import pytest
import torch

from distrl.base.columns import Columns
from tests.learning.rollouts import make_algorithm, make_rollout, update, weights, whole_gradient


def test_the_gradient_is_the_policy_gradient():
    algorithm = make_algorithm("a2c", gamma=0.9, value_coef=0.5, entropy_coef=0.02)
    rollout = make_rollout(algorithm, steps=6)
    found = whole_gradient(algorithm, rollout)
    prepared = algorithm.prepare(rollout)
    params, actions = algorithm.rollout_params(rollout), algorithm.policy.actions
    value, _ = algorithm.values(rollout)
    loss = -(prepared.advantage * actions.logp(params, rollout.action)).mean()
    loss = loss + 0.5 * 0.5 * (value - prepared.returns).square().mean() - 0.02 * actions.entropy(params).mean()
    algorithm.flat.zero_grad()
    loss.backward()
    torch.testing.assert_close(found, algorithm.flat.grad, rtol=1e-4, atol=1e-7)


def test_one_step_of_rmsprop_in_numbers():
    algorithm = make_algorithm("a2c", learning_rate=0.01, max_grad_norm=None)
    rollout = make_rollout(algorithm)
    gradient, before = whole_gradient(algorithm, rollout), weights(algorithm)
    update(algorithm, rollout)
    step = 0.01 * gradient / ((1 - 0.99) * gradient.square()).sqrt().add(1e-5)
    torch.testing.assert_close(weights(algorithm), before - step, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_to_the_configured_norm():
    algorithm = make_algorithm("a2c", max_grad_norm=0.1)
    rollout = make_rollout(algorithm)
    gradient = whole_gradient(algorithm, rollout)
    assert gradient.norm() > 0.1
    assert update(algorithm, rollout)["loss/grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    torch.testing.assert_close(algorithm.flat.grad, 0.1 * gradient / gradient.norm(), rtol=1e-4, atol=1e-7)


def test_returns_are_rewards_until_the_end_and_a_bootstrap():
    algorithm = make_algorithm("a2c", gamma=0.9)
    rollout = make_rollout(algorithm, steps=3, envs=1)
    no = torch.zeros(3, 1, dtype=torch.bool)
    rollout = ended(rollout, no, no)
    last = float(algorithm.model.value(rollout.last_obs).detach())
    rewards = rollout.reward.flatten().tolist()
    expected = rewards[0] + 0.9 * rewards[1] + 0.81 * rewards[2] + 0.729 * last
    assert float(algorithm.prepare(rollout).returns[0, 0]) == pytest.approx(expected, abs=1e-5)


def test_a_time_limit_bootstraps_from_the_true_last_observation_and_an_end_does_not():
    algorithm = make_algorithm("a2c", gamma=0.9)
    rollout = make_rollout(algorithm, steps=3, envs=1)
    no, second = torch.zeros(3, 1, dtype=torch.bool), torch.tensor([[False], [True], [False]])
    rewards = rollout.reward.flatten().tolist()
    final_obs = torch.tensor([[5.0, -3.0, 2.0]])
    cut = ended(rollout, no, second).with_(final_obs=final_obs, final_index=torch.tensor([[1, 0]]))
    value = float(algorithm.model.value(final_obs).detach())
    expected = rewards[0] + 0.9 * (rewards[1] + 0.9 * value)
    assert float(algorithm.prepare(cut).returns[0, 0]) == pytest.approx(expected, abs=1e-5)
    end = ended(rollout, second, no)
    assert float(algorithm.prepare(end).returns[0, 0]) == pytest.approx(rewards[0] + 0.9 * rewards[1], abs=1e-5)


def ended(rollout: Columns, terminated: torch.Tensor, truncated: torch.Tensor) -> Columns:
    """The rollout with other ends, and no final observations."""
    return rollout.with_(
        terminated=terminated,
        truncated=truncated,
        final_obs=rollout.last_obs[:0],
        final_index=torch.zeros(0, 2, dtype=torch.int64),
    )
