"""Soft actor-critic against a plain one, and its temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

from tests.support.continuous_cases import learn, make_batch, make_learner


class PlainSAC:
    """SAC written down from the paper with separate networks, autograd and one Adam for each of its three losses."""

    def __init__(self, learner, learning_rate, gamma_tau):
        self.tau = gamma_tau
        dense, critics = learner.policy.dense, learner.critics.dense
        self.actor = [(w[0].t(), b[0, 0]) for w, b in zip(dense.weights, dense.biases, strict=True)]
        self.actor += [(dense.head_weight[0], dense.head_bias[0, :, 0])]
        self.critics = [
            [(w[e].t(), b[e, 0]) for w, b in zip(critics.weights, critics.biases, strict=True)]
            + [(critics.head_weight[e], critics.head_bias[e, :, 0])]
            for e in range(2)
        ]
        self.actor = self._own(self.actor)
        self.critics = [self._own(critic) for critic in self.critics]
        self.targets = [[(w.detach().clone(), b.detach().clone()) for w, b in critic] for critic in self.critics]
        self.log_alpha = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        every = [tensor for critic in self.critics for pair in critic for tensor in pair]
        self.critic_adam = torch.optim.Adam(every, lr=learning_rate)
        self.actor_adam = torch.optim.Adam([tensor for pair in self.actor for tensor in pair], lr=learning_rate)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=learning_rate)

    @staticmethod
    def _own(layers):
        return [tuple(tensor.detach().double().clone().requires_grad_() for tensor in pair) for pair in layers]

    @staticmethod
    def run(layers, x):
        for weight, bias in layers[:-1]:
            x = F.relu(F.linear(x, weight, bias))
        return F.linear(x, *layers[-1])

    def sample(self, obs, noise):
        mean, log_std = self.run(self.actor, obs).chunk(2, -1)
        distribution = Normal(mean, log_std.clamp(-20, 2).exp())
        u = mean + distribution.stddev * noise
        action = torch.tanh(u)
        return action, (distribution.log_prob(u) - torch.log(1 - action**2)).sum(-1)

    def q(self, critics, obs, action):
        return torch.stack([self.run(critic, torch.cat((obs, action), -1)).squeeze(-1) for critic in critics])

    def update(self, batch, noise):
        obs, next_obs = batch.obs.double(), batch.next_obs.double()
        unit = (batch.action.double() - 1.0) / 3.0  # the box is (-2, 4)
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_action, next_logp = self.sample(next_obs, noise[0])
            value = self.q(self.targets, next_obs, next_action).amin(0) - alpha * next_logp
            y = batch.reward.double() + batch.discount.double() * value
        loss = (0.5 * (self.q(self.critics, obs, unit) - y).square() * batch.weight.double()).mean(1).sum()
        self._step(self.critic_adam, loss)
        action, logp = self.sample(obs, noise[1])
        self._step(self.actor_adam, (alpha * logp - self.q(self.critics, obs, action).amin(0)).mean())
        self._step(self.alpha_adam, -(self.log_alpha * (logp.detach() - 2.0)).mean())
        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for pair, old in zip(critic, target, strict=True):
                    for tensor, slow in zip(pair, old, strict=True):
                        slow += self.tau * (tensor - slow)

    @staticmethod
    def _step(adam, loss):
        adam.zero_grad()
        loss.backward()
        adam.step()


def test_equals_a_plain_implementation():
    learner = make_learner("sac", learning_rate=1e-3, tau=0.01)
    plain = PlainSAC(learner, 1e-3, 0.01)
    for target in plain.targets:
        target[:] = [(w.double(), b.double()) for w, b in target]
    rng, same = np.random.default_rng(4), np.random.default_rng(4)
    for step in range(5):
        batch = make_batch(seed=step)
        noise = torch.from_numpy(same.standard_normal((2, 32, 2), dtype=np.float32)).double()
        learner.update(batch, rng)
        plain.update(batch, noise)
    obs, action = torch.randn(20, 3), torch.rand(20, 2) * 2 - 1
    q = learner.critics(obs, action).squeeze(-1).double()
    torch.testing.assert_close(q, plain.q(plain.critics, obs.double(), action.double()), rtol=1e-4, atol=1e-5)
    slow = learner.target_critics(obs, action).squeeze(-1).double()
    torch.testing.assert_close(slow, plain.q(plain.targets, obs.double(), action.double()), rtol=1e-4, atol=1e-5)
    noise = torch.randn(20, 2)
    mine, theirs = learner.policy.sample(obs, noise), plain.sample(obs.double(), noise.double())
    torch.testing.assert_close(mine[0].double(), theirs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine[1].double(), theirs[1], rtol=1e-4, atol=1e-4)
    assert learner.log_temperature.item() == pytest.approx(plain.log_alpha.item(), abs=1e-6)


@pytest.mark.parametrize(("target_entropy", "falls"), [(-20.0, True), (20.0, False)])
def test_temperature_moves_the_entropy_towards_its_aim(target_entropy, falls):
    learner = make_learner("sac", target_entropy=target_entropy)
    entropy = learn(learner, [make_batch()])["policy/entropy"]
    assert learner.log_temperature.grad.item() == pytest.approx(entropy - target_entropy, rel=1e-5)
    assert (learner.log_temperature.item() < 0) == falls


def test_a_given_temperature_stays():
    learner = make_learner("sac", temperature=0.2)
    metrics = learn(learner, [make_batch(seed=step) for step in range(3)])
    assert metrics["policy/temperature"] == pytest.approx(0.2)
    assert "number" not in learner.modules
    assert math.isclose(make_learner("sac").target_entropy, -2.0)


def test_a_true_end_is_worth_its_reward_alone():
    learner = make_learner("sac", critics=1, learning_rate=1e-2, hidden=(32, 32))
    batch = make_batch(discount=torch.zeros(32), weight=torch.ones(32))
    learn(learner, [batch] * 600)
    q = learner.critics(batch.obs, learner.scale.to_unit(batch.action)).squeeze()
    assert (q - batch.reward).abs().mean() < 0.05


def test_the_policy_waits_for_its_turn():
    learner = make_learner("sac", policy_interval=3)
    before = learner.modules["policy"].flat.data.clone()
    learn(learner, [make_batch(seed=0), make_batch(seed=1)])
    assert torch.equal(before, learner.modules["policy"].flat.data)
    learn(learner, [make_batch(seed=2)])
    assert not torch.equal(before, learner.modules["policy"].flat.data)


def test_state_dependent_exploration_changes_when_published_only():
    learner = make_learner("sac", state_dependent=True)
    obs = torch.randn(1, 3)
    learner.set_exploration(np.random.default_rng(0))
    first = learner.policy.actions.sample(learner.policy(obs)[0], torch.zeros(1, 2))
    again = learner.policy.actions.sample(learner.policy(obs)[0], torch.ones(1, 2))
    assert torch.equal(first, again)
    learner.set_exploration(np.random.default_rng(1))
    assert not torch.equal(first, learner.policy.actions.sample(learner.policy(obs)[0], torch.zeros(1, 2)))
