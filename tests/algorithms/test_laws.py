"""Return distributions as baselines: what they learn, how risk enters, and that a mean critic is still the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.algorithms.shards import Shards
from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections import ModelConfig
from distrl.envs.return_law import ReturnLaw
from distrl.envs.tabular_examples import CHAIN3, GAUSSIAN_CHAIN, chain3_law, gaussian_chain_law
from tests.algorithms.rollouts import ACTIONS, VECTOR, make_rollout, update

STATES = spaces.Box(0.0, 1.0, (3,), np.float32)  # one-hot
GAMMA = 0.9
GRID = {"name": "categorical", "size": 61, "v_min": -3.0, "v_max": 12.0}

#: head -> (what it is learned on, largest Wasserstein-1 error of the return from any state)
HEADS: dict[str, tuple[Any, str, float]] = {
    "quantile": ({"name": "quantile", "size": 32, "kappa": 0.0}, "chain3", 0.3),
    "categorical": (GRID, "chain3", 0.3),
    "iqn": ({"name": "iqn", "size": 16, "kappa": 0.0}, "chain3", 0.45),
    "fqf": ({"name": "fqf", "size": 16, "kappa": 0.0}, "chain3", 0.4),
    "gaussian": ({"name": "gaussian"}, "gaussian_chain", 0.2),
    "mixture": ({"name": "mixture"}, "gaussian_chain", 0.25),
}


def make(name: str, observation: Any = STATES, action: Any = ACTIONS["discrete"], seed: int = 0, **config: Any) -> Any:
    cls = register.get("algorithm", name)
    checked = cls.Config(name=name, gamma=GAMMA, **config)
    model = cls.build_model(observation, action, ModelConfig(hidden=[32], activation="relu"), checked, seed=seed)
    algorithm = cls(checked, model)
    algorithm.resolve(0, 1000)
    return algorithm


def chain_rollout(algorithm: Any, chain: str, rng: np.random.Generator, envs: int = 64, steps: int = 6) -> Columns:
    """Two episodes of a chain in every environment, always with action 1."""
    position = np.arange(steps) % 3
    obs = torch.eye(3)[torch.from_numpy(position)][:, None].expand(steps, envs, 3).contiguous()
    if chain == "chain3":
        values, probs = np.array(CHAIN3[1]).T
        reward = rng.choice(values, size=(steps, envs), p=probs)
    else:
        reward = rng.normal(*GAUSSIAN_CHAIN[1], size=(steps, envs))
    action = torch.ones(steps, envs, dtype=torch.int64)
    with torch.no_grad():
        params = algorithm.policy(obs.flatten(0, 1))[0].unflatten(0, (steps, envs))
    ends = torch.from_numpy(np.broadcast_to((position == 2)[:, None], (steps, envs)).copy())
    return Columns(
        obs=obs,
        action=action,
        logp=algorithm.policy.actions.logp(params, action),
        params=params,
        reward=torch.from_numpy(reward.astype(np.float32)),
        terminated=ends,
        truncated=torch.zeros_like(ends),
        first=torch.from_numpy(np.broadcast_to((position == 0)[:, None], (steps, envs)).copy()),
        last_obs=obs[0],
        final_obs=obs[0, :0],
        final_index=torch.zeros((0, 2), dtype=torch.int64),
        version=torch.zeros(envs, dtype=torch.int64),
    )


def exact_law(chain: str, state: int) -> ReturnLaw:
    actions = [1] * (3 - state)
    return chain3_law(actions, GAMMA) if chain == "chain3" else gaussian_chain_law(actions, GAMMA)


def errors(algorithm: Any, chain: str) -> list[float]:
    """Wasserstein-1 distance of the critic's law from the exact one, state by state."""
    critic = algorithm.model.critic
    with torch.no_grad():
        values, probs = critic.law.atoms(critic(torch.eye(3)))
    return [
        exact_law(chain, state).wasserstein(values[state].double().numpy(), probs[state].double().numpy())
        for state in range(3)
    ]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["ppo", "impala"])
def test_the_critic_learns_the_law_of_the_return(name: str, head: str):
    config, chain, bound = HEADS[head]
    own = {"epochs": 2, "minibatches": 4} if name == "ppo" else {"optimizer": "adam"}
    algorithm = make(name, critic_head=config, lam=0.8, max_grad_norm=None, critic=1.0, learning_rate=5e-3, **own)
    rng = np.random.default_rng(0)
    first = errors(algorithm, chain)
    steps = 160 if name == "ppo" else 500
    for number in range(steps):
        if number == steps * 2 // 3:
            algorithm.schedules = algorithm.schedules.model_copy(update={"learning_rate": 1e-3})
            algorithm.resolve(0, 1000)
        update(algorithm, chain_rollout(algorithm, chain, rng), number)
    assert max(errors(algorithm, chain)) < bound < max(first)


def test_a_constant_law_gives_the_same_advantages_under_every_risk():
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


def test_the_mean_of_a_law_is_used_as_a_value():
    """g(u) = u with weights 1/N is PPO with a mean critic: advantages are GAE's on the mean of the quantiles."""
    algorithm = make("ppo", VECTOR, critic_head={"name": "quantile", "size": 16})
    rollout = make_rollout(algorithm, VECTOR)
    with torch.no_grad():
        laws = algorithm.model.critic(rollout.obs.flatten(0, 1))
    torch.testing.assert_close(algorithm.prepare(rollout).value.flatten(), laws.mean(-1))


def test_risk_lowers_the_value_of_a_spread_law():
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


def test_a_joint_law_is_refused():
    with pytest.raises(ConfigError, match="several reward channels"):
        make("ppo", critic_head="joint")
