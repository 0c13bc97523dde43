"""What must hold for every off-policy learner of continuous control."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.errors import ConfigError, NonFiniteError
from distrl.base.pack import load_state, save_state
from distrl.base.registry import register
from distrl.models.parameters.published import load_weights, pack_weights
from tests.support.continuous_cases import ACTION, LEARNERS, OBSERVATION, learn, make_batch, make_learner, weights

HEADS = [
    "scalar",
    {"name": "categorical", "size": 11, "v_min": -5.0, "v_max": 5.0},
    {"name": "two_hot", "size": 11, "v_min": -50.0, "v_max": 50.0},
    {"name": "quantile", "size": 8, "kappa": 0.05},
    {"name": "iqn", "size": 8, "acting_size": 8, "embedding": 8, "kappa": 0.05},
    {"name": "fqf", "size": 8, "embedding": 8, "kappa": 0.05},
    "gaussian",
    {"name": "mixture", "size": 3},
]


def head_name(head):
    return head if isinstance(head, str) else head["name"]


@pytest.mark.parametrize("name", LEARNERS)
def test_registered_with_paper(name):
    (method,) = [method for method in register.methods("algorithm") if method.name == name]
    assert method.paper
    assert method.line


@pytest.mark.parametrize("name", LEARNERS)
def test_everything_learned_moves(name):
    learner = make_learner(name, **{**LEARNERS[name], "reset_every": None})
    before = {
        part: (p.flat.data.clone(), p.target_flat and p.target_flat.data.clone()) for part, p in learner.modules.items()
    }
    metrics = learn(learner, [make_batch(seed=step) for step in range(4)])
    assert all(np.isfinite(value) for value in metrics.values())
    for part, (data, target) in before.items():
        assert not torch.equal(data, learner.modules[part].flat.data), part
        if target is not None:
            assert not torch.equal(target, learner.modules[part].target_flat.data), part


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_draws_give_the_same_weights_also_after_a_resume(name, tmp_path):
    batches = [make_batch(seed=step) for step in range(6)]
    whole = make_learner(name, **LEARNERS[name])
    learn(whole, batches[:3], seed=1)
    save_state(tmp_path / "state", whole.state())
    learn(whole, batches[3:], seed=2)
    resumed = make_learner(name, seed=5, **LEARNERS[name])
    resumed.load_state(load_state(tmp_path / "state"))
    learn(resumed, batches[3:], seed=2)
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.gradient_steps == resumed.gradient_steps == 6


@pytest.mark.parametrize("name", LEARNERS)
def test_broken_numbers_are_refused_and_undone(name):
    learner = make_learner(name, **{**LEARNERS[name], "reset_every": None})
    learn(learner, [make_batch(seed=step) for step in range(2)])
    before, steps = weights(learner), learner.gradient_steps
    bad = make_batch(seed=9)
    with pytest.raises(NonFiniteError):
        learn(learner, [make_batch(seed=3), bad.with_(reward=torch.full_like(bad.reward, float("nan")))])
    assert torch.equal(before, weights(learner))
    assert learner.gradient_steps == steps


@pytest.mark.parametrize("name", LEARNERS)
def test_acting_weights_carry_the_exploration(name):
    learner = make_learner(name, normalize_obs=True, **LEARNERS[name])
    published = learner.acting_model(learner.model)
    sampler = learner.acting_model(make_learner(name, seed=7, normalize_obs=True, **LEARNERS[name]).model)
    obs = torch.randn(500, 3)
    noise = torch.from_numpy(learner.policy.actions.draw_noise(np.random.default_rng(0), (500,)))
    for warming_up in (True, False):
        learner.warming_up = warming_up
        learner.set_exploration(np.random.default_rng(3))
        load_weights(sampler, pack_weights(published, 1))
        params, _ = sampler.policy(sampler.policy.normalize(obs))
        action = sampler.policy.actions.sample(params, noise)
        assert torch.isfinite(sampler.policy.actions.logp(params, action)).all()
        uniform = torch.erf(noise / 2**0.5) * 3.0 + 1.0  # the box is (-2, 4)
        assert torch.allclose(action, uniform, atol=1e-5) == warming_up
        assert not torch.equal(action, sampler.policy.actions.mode(params))


@pytest.mark.parametrize(("name", "head"), [*(("sac", head) for head in HEADS), ("td3", "scalar")], ids=head_name)
def test_any_head_learns_a_bandit(name, head):
    """Reward -(a - 0.4)^2 in unit actions of an episode of one step: the best action is 0.4."""
    options = {"temperature": 0.02} if name == "sac" else {}
    learner = make_learner(
        name, hidden=(32,), critic_head=head, learning_rate=1e-2, actor_learning_rate=2e-3, **options
    )
    rng, obs = np.random.default_rng(0), torch.zeros(64, 3)
    learner.begin_steps()
    for _ in range(300):
        unit = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
        batch = make_batch(
            64,
            obs=obs,
            next_obs=obs,
            action=torch.from_numpy(unit * 3.0 + 1.0),
            reward=torch.from_numpy(-np.square(unit - 0.4).sum(-1)),
            discount=torch.zeros(64),
            weight=torch.ones(64),
        )
        learner.update(batch, rng)
    learner.end_steps()
    params, _ = learner.policy(obs[:1])
    best = learner.scale.to_unit(learner.policy.actions.mode(params))
    assert (best - 0.4).abs().mean() < 0.15  # it begins 0.5 away


@pytest.mark.parametrize("head", HEADS, ids=head_name)
def test_any_head_learns_a_distribution(head):
    """Two steps with rewards +-1, each as likely: the return is -1.5, -0.5, 0.5 or 1.5 with discount 0.5."""
    learner = make_learner("td3", hidden=(32,), critic_head=head, learning_rate=5e-3, tau=0.1)
    rng = np.random.default_rng(0)
    states = torch.eye(3)
    learner.begin_steps()
    for _ in range(400):
        second = torch.from_numpy(rng.random(64) < 0.5)
        reward = torch.from_numpy(rng.choice([-1.0, 1.0], 64).astype(np.float32))
        batch = make_batch(
            64,
            obs=states[second.long()],
            next_obs=states[1].expand(64, 3),
            reward=reward,
            discount=torch.where(second, 0.0, 0.5),
            weight=torch.ones(64),
        )
        learner.update(batch, rng)
    learner.end_steps()
    with torch.no_grad():
        params = learner.critics(states[:2], torch.zeros(2, 2))
        mean = learner.distribution.mean(params).mean(0)
        deviation = learner.distribution.variance(params).mean(0).sqrt()
    assert mean.abs().max() < 0.25
    if head_name(head) not in ("scalar", "two_hot"):  # these know means only
        assert deviation[1].item() == pytest.approx(1.0, abs=0.25)
        assert deviation[0].item() == pytest.approx((1 + 0.25) ** 0.5, abs=0.3)


def test_priorities():
    batch = make_batch()
    for name, head in (("sac", "scalar"), ("sac", "quantile"), ("sac", "gaussian"), ("td3", "mixture")):
        learner = make_learner(name, prioritized=True, critic_head=head)
        priorities = learner.update(batch, np.random.default_rng(0)).priorities
        assert priorities.shape == (32,)
        assert (priorities >= 0).all()
        assert not priorities.requires_grad
    assert make_learner("sac").update(batch, np.random.default_rng(0)).priorities is None


def test_dict_observations_and_wide_boxes():
    space = spaces.Dict(goal=spaces.Box(-1, 1, (2,)), where=spaces.Box(-1, 1, (2,)))
    learner = make_learner("sac", spaces=(space, ACTION))
    tree = {"goal": torch.randn(32, 2), "where": torch.randn(32, 2)}
    assert np.isfinite(learn(learner, [make_batch(obs=tree, next_obs=tree)])["loss/critic"])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sac", {"spaces": (OBSERVATION, spaces.Discrete(3))}, "dqn"),
        ("sac", {"spaces": (OBSERVATION, spaces.Box(-np.inf, np.inf, (1,)))}, "finite"),
        ("tqc", {"drop": 25}, "nothing would be left"),
        ("sac", {"ensemble": "subset", "subset": 3}, "subset"),
        ("sac", {"risk": "cvar"}, "scalar"),
        ("sac", {"critic_head": "joint"}, "channels"),
        ("dsac", {"critic_head": "quantile"}, "Gaussian"),
    ],
)
def test_settings_that_do_not_fit(name, options, words):
    with pytest.raises(ConfigError, match=words):
        make_learner(name, **options)
