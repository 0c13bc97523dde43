"""DQN: losses and targets by hand, the numpy step against autograd, every head and switch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.config.sections.model import ModelConfig
from distrl.control.algorithms.value_based.dqn import DQN, DQNConfig
from tests.support.q_learners import ACTION, OBSERVATION, make_batch, make_q, parameters

HEADS = ["scalar", "categorical", "two_hot", "quantile", "iqn", "fqf", "gaussian", "mixture"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kappa", [None, 1.0, 0.0])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("rule", ["greedy", "double"])
def test_the_numpy_step_is_autograds(rule: str, activation: str, kappa: float | None, masked: bool):
    head = {"name": "scalar", "kappa": kappa}
    options: dict[str, Any] = {"next_action": rule, "activation": activation, "head": head, "prioritized": True}
    fast, slow = (make_q(hidden=(16, 16), target_interval=2, **options) for _ in range(2))
    assert fast.numpy_gradient is not None
    slow.numpy_gradient = None
    for number in range(4):
        batch = make_batch(32, seed=number, masked=masked)
        first, second = (algorithm.update(batch, np.random.default_rng(0)) for algorithm in (fast, slow))
        assert float(first.metrics["loss/critic"]) == pytest.approx(float(second.metrics["loss/critic"]), rel=1e-4)
        np.testing.assert_allclose(first.priorities, second.priorities, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(parameters(fast), parameters(slow), rtol=1e-3, atol=1e-5)


def test_a_subclass_with_its_own_target_takes_autograd() -> None:
    class Cautious(DQN):
        def rewards(self, batch: Any) -> Any:
            return batch.reward - 1.0

    base = make_q()
    assert base.numpy_gradient is not None
    model = DQN.build_model(
        OBSERVATION, ACTION, ModelConfig(), base.schedules, seed=0, normalize_obs=False, clip_obs=1.0
    )
    assert Cautious(base.schedules, model).numpy_gradient is None


def test_the_target_by_hand():
    """y = r + g max_a Q'(s', a), and double DQN's with the online network's choice (CB8)."""
    algorithm = make_q(seed=3)
    batch = make_batch(16)
    with torch.no_grad():  # an online network that disagrees with its target
        algorithm.policy.head.layer.weight.neg_()
    target, online = (network.values(batch.next_obs).detach() for network in (algorithm.target, algorithm.policy))
    for rule, best in (("greedy", target.argmax(1)), ("double", online.argmax(1))):
        algorithm = algorithm_with(algorithm, rule)
        values, probs = algorithm.td_target(batch, None, algorithm.policy, algorithm.target)
        expected = batch.reward + batch.discount * target[torch.arange(16), best]
        torch.testing.assert_close(values.squeeze(-1), expected)
        assert torch.equal(probs, torch.ones(16, 1))
    assert not torch.equal(target.argmax(1), online.argmax(1))


def algorithm_with(algorithm: Any, rule: str) -> Any:
    """The same networks under another next-action rule."""
    other = make_q(next_action=rule)
    other.modules["policy"].load_state(algorithm.modules["policy"].state())
    return other


@pytest.mark.parametrize("switches", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_with_every_switch(head: str, switches: tuple[bool, bool, bool]):
    dueling, noisy, prioritized = switches
    rule = "double" if dueling else "soft" if noisy else "greedy"
    algorithm = make_q(
        head=head, dueling=dueling, noisy=noisy, prioritized=prioritized, next_action=rule, munchausen=0.9 * noisy
    )
    before, rng = parameters(algorithm).clone(), np.random.default_rng(0)
    algorithm.set_exploration(rng)
    algorithm.begin_steps()
    for number in range(2):
        batch = make_batch(16, seed=number, masked=True)
        result = algorithm.update(batch, rng)
    algorithm.end_steps(batch)
    assert all(np.isfinite(float(value)) for value in result.metrics.values())
    assert not torch.equal(before, parameters(algorithm))
    assert (result.priorities is not None) == prioritized or algorithm.numpy_gradient is not None
    if prioritized:
        priorities = np.asarray(result.priorities)
        assert priorities.shape == (16,)
        assert (priorities >= 0).all()
    assert all(np.isfinite(value) for value in algorithm.diagnose(batch).values())


@pytest.mark.parametrize("head", HEADS)
def test_a_bandit_is_learned_by_every_head(head: str):
    """Two actions that end the episode with 1 and -1: values within 0.15."""
    options = {"categorical": {"v_min": -2.0, "v_max": 2.0}, "two_hot": {"v_min": -2.0, "v_max": 2.0}}.get(head, {})
    algorithm = make_q(
        head={"name": head, **options}, action=spaces.Discrete(2), learning_rate=5e-3, hidden=(32,), gamma=0.9
    )
    rng = np.random.default_rng(0)
    for _ in range(300):
        batch = make_batch(32)
        action = torch.from_numpy(rng.integers(0, 2, 32))
        reward, nothing = 1.0 - 2.0 * action.float(), torch.zeros(32)
        batch = batch.with_(action=action, reward=reward, discount=nothing, weight=torch.ones(32))
        algorithm.update(batch, rng)
    values = algorithm.policy.eval().values(batch.obs).detach().mean(0)
    torch.testing.assert_close(values, torch.tensor([1.0, -1.0]), atol=0.15, rtol=0)


def test_risk_chooses_the_safe_arm():
    """Entry 3's effect check: A is N(1, .1), B is -8 in one case of ten, else 2.2 (mean 1.18)."""
    risk, head = {"name": "cvar", "level": 0.25}, {"size": 16}
    algorithm = make_q("iqn", action=spaces.Discrete(2), hidden=(32,), learning_rate=1e-2, risk=risk, head=head)
    rng, nothing = np.random.default_rng(0), torch.zeros(64)
    for _ in range(500):
        action = rng.integers(0, 2, 64)
        risky = np.where(rng.random(64) < 0.1, -8.0, 2.2)
        reward = np.where(action == 0, rng.normal(1.0, 0.1, 64), risky).astype(np.float32)
        drawn = {"action": torch.from_numpy(action), "reward": torch.from_numpy(reward)}
        batch = make_batch(64, obs=torch.zeros(64, 3), discount=nothing, weight=nothing + 1.0, **drawn)
        algorithm.update(batch, rng)
    start = torch.zeros(1, 3)
    assert int(algorithm.policy.actions.mode(algorithm.policy(start)[0])) == 0
    assert int(algorithm.distribution.mean(algorithm.policy.returns(start)).argmax()) == 1


def test_epsilon_follows_its_schedule_and_noisy_needs_none():
    algorithm = make_q(epsilon={"from": 1.0, "to": 0.0, "over": 100})
    algorithm.resolve(25, None)
    algorithm.set_exploration(np.random.default_rng(0))
    assert float(algorithm.policy.epsilon) == 0.75
    assert DQNConfig(name="dqn").schedules["epsilon"].start == 1.0
    assert DQNConfig(name="dqn", noisy=True).epsilon == 0.0
    assert DQNConfig(name="dqn", noisy=True, epsilon=0.1).epsilon == 0.1
    again = DQNConfig.model_validate(DQNConfig(name="dqn").model_dump(mode="json"))
    assert again.schedules["epsilon"].end == 0.05


def test_a_support_that_is_too_narrow_is_told_once():
    algorithm = make_q("c51", head={"v_min": -1.0, "v_max": 1.0})
    batch = make_batch(reward=torch.full((8,), 5.0))
    for _ in range(2):
        algorithm.diagnose(batch)
    (text,) = algorithm.warnings
    assert "algorithm.head.v_max" in text


def test_wrong_uses():
    with pytest.raises(ConfigError, match="Discrete space"):
        make_q(action=spaces.Box(-1.0, 1.0, (2,)))
    with pytest.raises(ConfigError, match="gives its mean only"):
        make_q(risk={"name": "cvar", "level": 0.1})
    with pytest.raises(ConfigError, match=r"temperature is 0"):
        make_q(next_action="soft", temperature=0)
    with pytest.raises(ConfigError, match="joint learns several reward channels"):
        make_q("md3qn", n_step=3)
