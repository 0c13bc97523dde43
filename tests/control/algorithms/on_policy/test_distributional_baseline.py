"""Return distributions as baselines: how risk enters, and that a mean critic is still the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.model import ModelConfig
from distrl.learning.shards import Shards
from tests.learning.rollouts import ACTIONS, VECTOR, make_rollout, update

GAMMA = 0.9


def make(name: str, observation: Any = VECTOR, action: Any = ACTIONS["discrete"], seed: int = 0, **config: Any) -> Any:
    cls = register.get("algorithm", name)
    checked = cls.Config(name=name, gamma=GAMMA, **config)
    model = cls.build_model(observation, action, ModelConfig(hidden=[32], activation="relu"), checked, seed=seed)
    algorithm = cls(checked, model)
    algorithm.resolve(0, 1000)
    return algorithm


def test_a_constant_distribution_gives_the_same_advantages_under_every_risk():
    """Entry 10: with all quantiles equal no distortion matters."""
    advantages = []
    for risk in ("mean", {"name": "cvar", "level": 0.25}, {"name": "wang", "eta": -1.0}):
        algorithm = make("ppo", VECTOR, critic_head={"name": "quantile", "size": 8}, risk=risk)
        with torch.no_grad():
            head = algorithm.model.critic.head.layer
            head.weight[1:] = head.weight[0]
            head.bias.fill_(0.3)
        rollout = make_rollout(algorithm, VECTOR)
        advantages.append(algorithm.prepare(rollout).advantage)
    for advantage in advantages[1:]:
        torch.testing.assert_close(advantage, advantages[0])


def test_the_mean_of_a_distribution_is_used_as_a_value():
    """g(u) = u with weights 1/N is PPO with a mean critic: advantages are GAE's on the mean of the quantiles."""
    algorithm = make("ppo", VECTOR, critic_head={"name": "quantile", "size": 16})
    rollout = make_rollout(algorithm, VECTOR)
    with torch.no_grad():
        distributions = algorithm.model.critic(rollout.obs.flatten(0, 1))
    torch.testing.assert_close(algorithm.prepare(rollout).value.flatten(), distributions.mean(-1))


def test_risk_lowers_the_value_of_a_spread_distribution():
    means, tails = (
        make("ppo", VECTOR, critic_head="quantile", risk=risk, seed=4) for risk in ("mean", {"name": "cvar"})
    )
    for algorithm in (means, tails):
        with torch.no_grad():
            algorithm.model.critic.head.layer.bias.copy_(torch.linspace(-2.0, 2.0, 32))
    rollout = make_rollout(means, VECTOR)
    assert bool((tails.prepare(rollout).value < means.prepare(rollout).value - 1.0).all())


@pytest.mark.parametrize("recurrent", [None, "gru"])
@pytest.mark.parametrize("head", ["scalar", "two_hot", "quantile", "iqn", "fqf", "categorical", "gaussian", "mixture"])
@pytest.mark.parametrize("name", ["a2c", "ppo", "appo", "impala"])
def test_every_head_updates_every_learner(name: str, head: str, recurrent: str | None):
    cls = register.get("algorithm", name)
    config = cls.Config(name=name, critic_head=head)
    model_config = ModelConfig(hidden=[16], recurrent=recurrent, recurrent_size=8)
    model = cls.build_model(VECTOR, ACTIONS["discrete"], model_config, config, seed=0)
    algorithm = cls(config, model)
    algorithm.resolve(0, 1000)
    rollout = make_rollout(algorithm, VECTOR, burnt=True, stale=0.2)
    before = algorithm.flat.data.clone()
    metrics = update(algorithm, rollout)
    assert np.isfinite(metrics["loss/critic"])
    assert not torch.equal(algorithm.flat.data, before)
    assert np.isfinite(algorithm.diagnose(rollout)["policy/explained_variance"])


def test_shards_draw_the_same_levels():
    results = []
    for shards in (1, 2):
        cls = register.get("algorithm", "ppo")
        config = cls.Config(name="ppo", critic_head="iqn", epochs=2, minibatches=2)
        model = cls.build_model(VECTOR, ACTIONS["discrete"], ModelConfig(hidden=[16]), config, seed=0)
        algorithm = cls(config, model, shards=Shards(shards))
        algorithm.resolve(0, 1000)
        update(algorithm, make_rollout(algorithm, VECTOR))
        results.append(algorithm.flat.data.clone())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("ppo", {"critic_head": "quantile", "clip_value": 0.2}, "only values can be clipped"),
        ("ppo", {"risk": "cvar"}, "a mean has no risk"),
        ("impala", {"critic_head": "quantile", "rho_bar": 2.0}, "clipped at 1"),
        ("ppo", {"critic_head": "quantil"}, "quantile"),
        ("ppo", {"critic_head": {"name": "categorical", "v_min": 3.0, "v_max": 1.0}}, "v_min < v_max"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, config: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make(name, **config)


def test_a_joint_distribution_is_refused():
    with pytest.raises(ConfigError, match="several reward channels"):
        make("ppo", critic_head="joint")
