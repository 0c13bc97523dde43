"""The 3-state chains as rollouts and replay batches, their return distributions, and errors of learned ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.config.sections.model import ModelConfig
from distrl.control.envs.library.tabular_examples import CHAIN3, GAUSSIAN_CHAIN
from distrl.functional.atoms import midpoints
from distrl.functional.distributions.base import Scalar
from distrl.functional.distributions.categorical import TwoHot
from distrl.functional.distributions.gaussian import Gaussian, Mixture
from tests.exact import closed_forms
from tests.exact.closed_forms import ExactReturn

STATES = spaces.Box(0.0, 1.0, (3,), np.float32)  # one-hot
GAMMA = 0.9
#: Continuous chains pay this times the action on top of the gamble, for actions in (-1, 1).
SLOPE = 1.0
GRID = {"name": "categorical", "size": 61, "v_min": -3.0, "v_max": 12.0}
TWO_HOT = {"name": "two_hot", "size": 61, "v_min": -3.0, "v_max": 12.0, "spacing": "linear"}


def draw_rewards(chain: str, action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the actions (...) of a chain pay, float32 (...)."""
    if chain == "chain3":
        paid = np.zeros(action.shape)
        for a, row in enumerate(CHAIN3):
            values, probs = np.array(row).T
            paid = np.where(action == a, rng.choice(values, size=action.shape, p=probs), paid)
    else:
        means, stds = np.array(GAUSSIAN_CHAIN).T
        paid = rng.normal(means[action], stds[action])
    return paid.astype(np.float32)


def exact_distribution(chain: str, actions: Sequence[int]) -> ExactReturn:
    """The return of these actions, one after the other, to the end of the chain."""
    return (
        closed_forms.chain3_return(actions, GAMMA)
        if chain == "chain3"
        else closed_forms.gaussian_chain_return(actions, GAMMA)
    )


def error_of(distribution: Any, params: torch.Tensor, exact: ExactReturn) -> float:
    """Wasserstein-1 distance of a learned distribution (P,); of means for families without a distribution."""
    if isinstance(distribution, Scalar | TwoHot):
        return abs(float(distribution.mean(params)) - float(exact.mean))
    if isinstance(distribution, Gaussian | Mixture):  # the density itself, not the atoms that stand for it in targets
        params = params.double()
        return exact.wasserstein(distribution.quantile(params, midpoints(400, params)).numpy())
    values, probs = (x.double().numpy() for x in distribution.atoms(params))
    return exact.wasserstein(values, probs)


# ---- on-policy -----------------------------------------------------------------------------------------------------


def make_on_policy(name: str, **config: Any) -> Any:
    """A policy-gradient learner of one-hot states with four actions."""
    cls = register.get("algorithm", name)
    checked = cls.Config(name=name, gamma=GAMMA, **config)
    model_config = ModelConfig(hidden=[32], activation="relu")
    algorithm = cls(checked, cls.build_model(STATES, spaces.Discrete(4), model_config, checked, seed=0))
    algorithm.resolve(0, 1000)
    return algorithm


def chain_rollout(algorithm: Any, chain: str, rng: np.random.Generator, envs: int = 64, steps: int = 6) -> Columns:
    """Two episodes of a chain in every environment, always with action 1."""
    position = np.arange(steps) % 3
    obs = torch.eye(3)[torch.from_numpy(position)][:, None].expand(steps, envs, 3).contiguous()
    action = torch.ones(steps, envs, dtype=torch.int64)
    with torch.no_grad():
        params = algorithm.policy(obs.flatten(0, 1))[0].unflatten(0, (steps, envs))
    ends = torch.from_numpy(np.broadcast_to((position == 2)[:, None], (steps, envs)).copy())
    return Columns(
        obs=obs,
        action=action,
        logp=algorithm.policy.actions.logp(params, action),
        params=params,
        reward=torch.from_numpy(draw_rewards(chain, action.numpy(), rng)),
        terminated=ends,
        truncated=torch.zeros_like(ends),
        first=torch.from_numpy(np.broadcast_to((position == 0)[:, None], (steps, envs)).copy()),
        last_obs=obs[0],
        final_obs=obs[0, :0],
        final_index=torch.zeros((0, 2), dtype=torch.int64),
        version=torch.zeros(envs, dtype=torch.int64),
    )


def critic_errors(algorithm: Any, chain: str) -> list[float]:
    """Error of a critic's distribution of action 1 for ever, state by state."""
    critic = algorithm.model.critic
    with torch.no_grad():
        params = critic(torch.eye(3))
    if params.dim() == 1:  # a scalar critic gives values
        return [abs(float(params[s]) - float(exact_distribution(chain, [1] * (3 - s)).mean)) for s in range(3)]
    return [error_of(critic.distribution, params[s], exact_distribution(chain, [1] * (3 - s))) for s in range(3)]


# ---- off-policy ----------------------------------------------------------------------------------------------------


def replay_batch(rows: int, rng: np.random.Generator, **columns: torch.Tensor) -> Columns:
    """Transitions from states drawn evenly; `columns` are action and reward."""
    state = rng.integers(0, 3, rows)
    following = np.concatenate([np.eye(3, dtype=np.float32)[1:], np.zeros((1, 3), np.float32)])
    return Columns(
        obs=torch.eye(3)[torch.from_numpy(state)],
        discount=torch.from_numpy(np.where(state == 2, 0.0, GAMMA).astype(np.float32)),
        next_obs=torch.from_numpy(following[state]),
        weight=torch.ones(rows),
        index=torch.arange(rows),
        generation=torch.zeros(rows, dtype=torch.int64),
        **columns,
    )


def discrete_batch(chain: str, rows: int, rng: np.random.Generator) -> Columns:
    """Actions drawn evenly. `reward_channels` (N, 2) has a second channel: what is missing to 4, for action 1 only."""
    action = rng.integers(0, 2, rows)
    reward = draw_rewards(chain, action, rng)
    channels = np.stack([reward, np.where(action == 1, 4.0 - reward, 0.0)], -1).astype(np.float32)
    made = {"action": action, "reward": reward, "reward_channels": channels}
    return replay_batch(rows, rng, **{name: torch.from_numpy(value) for name, value in made.items()})


def q_errors(algorithm: Any, chain: str) -> list[float]:
    """Error of each (state, action)'s distribution where action 1 follows; of each linear reading of a joint one."""
    algorithm.policy.eval()  # noisy layers: their means
    with torch.no_grad():
        params, found = algorithm.policy.returns(torch.eye(3)), algorithm.distribution
    distributions = [(params[s, a], [a] + [1] * (2 - s)) for s in range(3) for a in range(2)]
    if found.channels == 1:
        return [error_of(found, row, exact_distribution(chain, actions)) for row, actions in distributions]
    return [error for row, actions in distributions for error in joint_errors(found.vectors(row), actions, chain)]


def joint_errors(vectors: torch.Tensor, actions: Sequence[int], chain: str) -> list[float]:
    """W1 of both channels of equally likely vectors (M, 2), and of their sum, which is certain."""
    first, total = (
        exact_distribution(chain, actions),
        sum(GAMMA**t * (4.0 if a else 1.0) for t, a in enumerate(actions)),
    )
    distributions = (first, ExactReturn(total - first.values, first.probs), ExactReturn(np.array([total]), np.ones(1)))
    columns = (vectors[:, 0], vectors[:, 1], vectors.sum(1))
    return [
        distribution.wasserstein(column.numpy()) for distribution, column in zip(distributions, columns, strict=True)
    ]


def continuous_batch(chain: str, rows: int, rng: np.random.Generator) -> Columns:
    """Actions drawn evenly from (-1, 1); the gamble of action 1 pays `SLOPE` times the action more."""
    action = rng.uniform(-1.0, 1.0, (rows, 1)).astype(np.float32)
    reward = draw_rewards(chain, np.ones(rows, np.int64), rng) + SLOPE * action[:, 0]
    return replay_batch(rows, rng, action=torch.from_numpy(action), reward=torch.from_numpy(reward))


def own_actions(algorithm: Any) -> torch.Tensor:
    """(3, 1) what the policy does without noise."""
    with torch.no_grad():
        return algorithm.policy.actions.mode(algorithm.policy(torch.eye(3))[0])


def continuous_errors(algorithm: Any, chain: str) -> list[float]:
    """Largest error over the ensemble of the distribution of the policy's own actions, state by state."""
    action = own_actions(algorithm)
    with torch.no_grad():
        params = algorithm.critics(torch.eye(3), action)  # (E, 3, P)
    found = []
    for state in range(3):
        distribution = exact_distribution(chain, [1] * (3 - state))
        bonus = sum(GAMMA**t * SLOPE * float(a) for t, a in enumerate(action[state:, 0]))
        distribution = ExactReturn(distribution.values + bonus, distribution.probs, distribution.std)
        found.append(max(error_of(algorithm.distribution, each, distribution) for each in params[:, state]))
    return found
