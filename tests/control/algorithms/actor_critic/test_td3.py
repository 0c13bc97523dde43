"""TD3 against its equations, and DDPG as TD3 without its additions."""

from __future__ import annotations

import numpy as np
import torch

from tests.support.continuous_cases import learn, make_batch, make_learner


def test_target_smooths_and_takes_the_lower_critic():
    learner = make_learner("td3", target_noise=0.4, target_noise_clip=0.3)
    batch = make_batch()
    with torch.no_grad():
        law = learner.td_target(batch, np.random.default_rng(5))
    noise = np.random.default_rng(5).standard_normal((32, 2), dtype=np.float32) * 0.4
    noise = torch.from_numpy(noise.clip(-0.3, 0.3))
    action = (learner.policy.action(batch.next_obs) + noise).clamp(-1, 1)
    q = learner.critics(batch.next_obs, action).squeeze(-1).amin(0)
    torch.testing.assert_close(law.values.squeeze(-1), (batch.reward + batch.discount * q).detach())


def test_actor_climbs_the_first_critic():
    learner = make_learner("td3", learning_rate=0.0)
    batch = make_batch()
    loss = -learner.critics(batch.obs, learner.policy.action(batch.obs))[0].mean()
    expected = torch.autograd.grad(loss, list(learner.policy.parameters()))
    learn(learner, [batch, batch])
    for parameter, gradient in zip(learner.policy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_policy_and_targets_are_delayed():
    learner = make_learner("td3")
    policy, critics = learner.modules["policy"], learner.modules["critics"]
    before = policy.flat.data.clone(), policy.target_flat.data.clone(), critics.target_flat.data.clone()
    learn(learner, [make_batch()])
    assert torch.equal(before[0], policy.flat.data)
    assert torch.equal(before[2], critics.target_flat.data)
    learn(learner, [make_batch(seed=1)])
    assert not torch.equal(before[0], policy.flat.data)
    torch.testing.assert_close(policy.target_flat.data, before[1] + 0.005 * (policy.flat.data - before[1]))
    torch.testing.assert_close(critics.target_flat.data, before[2] + 0.005 * (critics.flat.data - before[2]))


def test_ddpg_is_td3_without_its_additions():
    ddpg = make_learner("ddpg")
    td3 = make_learner("td3", critics=1, policy_interval=1, target_interval=1, target_noise=0.0)
    for learner in (ddpg, td3):
        learn(learner, [make_batch(seed=step) for step in range(3)])
    for name in ("policy", "critics"):
        assert torch.equal(ddpg.modules[name].flat.data, td3.modules[name].flat.data)
    batch = make_batch()
    with torch.no_grad():
        law = ddpg.td_target(batch, np.random.default_rng(0))
        value = ddpg.target_critics(batch.next_obs, ddpg.target_policy.action(batch.next_obs))[0, :, 0]
    torch.testing.assert_close(law.values[:, 0], batch.reward + batch.discount * value)


def test_noise_follows_its_schedule():
    learner = make_learner("td3", noise={"from": 0.4, "to": 0.0, "over": 1000})
    learner.resolve(500, 1000)
    learner.set_exploration(np.random.default_rng(0))
    assert abs(learner.policy.sigma.item() - 0.2) < 1e-6
