"""Average-reward DDPG: the exact checks of entry 53."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.continuous_cases import make_batch, make_learner


def differential(reward, obs, next_obs, steps=900, **options):
    """Learn a deterministic chain: reward, obs and next_obs of every state; returns the learner."""
    learner = make_learner("aro_ddpg", hidden=(16,), learning_rate=5e-3, tau=0.05, **options)
    rng = np.random.default_rng(0)
    learner.begin_steps()
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(reward), 32))
        with torch.no_grad():  # its own actions, which change nothing
            action = learner.scale.to_env(learner.policy.action(obs[rows]))
        batch = make_batch(
            32,
            obs=obs[rows],
            next_obs=next_obs[rows],
            reward=reward[rows],
            discount=torch.ones(32),
            weight=torch.ones(32),
            action=action,
        )
        learner.update(batch, rng)
    learner.end_steps()
    return learner


def test_constant_reward():
    states = torch.eye(3)[:1]
    learner = differential(torch.tensor([2.0]), states, states, steps=700, average_learning_rate=1e-2)
    assert learner.average.item() == pytest.approx(2.0, abs=0.05)


def test_any_constant_is_a_fixed_point():
    learner = make_learner("aro_ddpg")
    with torch.no_grad():
        for part in (learner.modules["critics"],):
            part.flat.data.zero_()
            learner.critics.dense.head_bias.fill_(7.0)
            part.track(1.0)
        learner.target_average.fill_(2.0)
        law = learner.td_target(make_batch(reward=torch.full((32,), 2.0)), np.random.default_rng(0))
    torch.testing.assert_close(law.values, torch.full((32, 1), 7.0))  # true ends included: nothing is cut off


def test_two_states_in_a_cycle():
    states = torch.eye(3)[:2]
    learner = differential(torch.tensor([0.0, 1.0]), states, states.flip(0))
    assert learner.average.item() == pytest.approx(0.5, abs=0.05)
    with torch.no_grad():
        q = learner.critics(states, learner.policy.action(states)).mean((0, 2))
    assert (q[0] - q[1]).item() == pytest.approx(-0.5, abs=0.05)


def test_being_set_back_costs():
    learner = make_learner("aro_ddpg", reset_reward=-3.0)
    batch = make_batch()
    ended = batch.discount == 0
    with torch.no_grad():
        costly = learner.td_target(batch, np.random.default_rng(0)).values
        learner.config = learner.config.model_copy(update={"reset_reward": 0.0})
        free = learner.td_target(batch, np.random.default_rng(0)).values
    torch.testing.assert_close((costly - free).squeeze(-1), -3.0 * ended.float(), rtol=1e-4, atol=1e-5)
