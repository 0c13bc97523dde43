"""Heads x learners: on 3-state chains every learner finds the known return distribution with every head it accepts.

Errors are Wasserstein-1 distances in units of return, of the worst state (and action, and critic of an ensemble); the
distribution from the first state has standard deviation 3.1 (`chain3`) or 2.4 (`gaussian_chain`). Scalar and two-hot
heads mean no distribution: theirs are errors of the mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.config.sections.heads import FAMILIES
from tests.learning.rollouts import update
from tests.support import distribution_cases as cases
from tests.support.continuous_cases import make_learner
from tests.support.q_learners import make_q

EXACT = {"kappa": 0.0}  # quantiles themselves, not those of a Huber loss
HEADS: dict[str, dict[str, Any]] = {
    "scalar": {},
    "two_hot": cases.TWO_HOT,
    "categorical": cases.GRID,
    "quantile": {"size": 32, **EXACT},
    "iqn": {"size": 16, **EXACT},
    "fqf": {"size": 16, **EXACT},
    "gaussian": {"size": 16},
    "mixture": {"size": 3, "atoms_each": 8},
    "joint": {"kernel": "energy"},
}
#: Densities learn returns that have one.
CHAIN = {head: "gaussian_chain" if head in ("gaussian", "mixture") else "chain3" for head in HEADS}


def head_of(name: str) -> dict[str, Any]:
    return {"name": name, **HEADS[name]}


def falling(rate: float) -> dict[str, Any]:
    return {"from": rate, "to": 2e-4, "over": "run"}


# ---- DQN's family --------------------------------------------------------------------------------------------------

#: learner, head -> gradient steps, first learning rate, bound
Q_CELLS: dict[tuple[str, str], tuple[int, float, float]] = {
    ("dqn", "scalar"): (600, 5e-3, 0.15),
    ("dqn", "two_hot"): (600, 5e-3, 0.2),
    ("c51", "categorical"): (600, 5e-3, 0.2),
    ("rainbow", "categorical"): (800, 5e-3, 0.4),
    ("qr_dqn", "quantile"): (600, 5e-3, 0.4),
    ("iqn", "iqn"): (1000, 1e-2, 0.45),
    ("fqf", "fqf"): (600, 5e-3, 0.45),
    ("dqn", "gaussian"): (600, 5e-3, 0.15),
    ("dqn", "mixture"): (600, 5e-3, 0.2),
    ("md3qn", "joint"): (600, 5e-3, 0.5),
}


@pytest.mark.parametrize(("name", "head"), Q_CELLS, ids=map("-".join, Q_CELLS))
def test_value_based_learners(name: str, head: str):
    """Distributions of all states and actions, where the better action follows."""
    steps, rate, bound = Q_CELLS[name, head]
    options = {"gamma": cases.GAMMA, "target_interval": 10, "learning_rate": falling(rate), "head": head_of(head)}
    learner = make_q(name, observation=cases.STATES, action=spaces.Discrete(2), hidden=(32,), **options)
    rng = np.random.default_rng(0)
    first = max(cases.q_errors(learner, CHAIN[head]))
    learner.policy.train()
    for step in range(steps):
        learner.resolve(step, steps)
        learner.update(cases.discrete_batch(CHAIN[head], 128, rng), rng)
    assert max(cases.q_errors(learner, CHAIN[head])) < bound < first


# ---- continuous control --------------------------------------------------------------------------------------------

#: learner -> its options: hardly any entropy bonus, no smoothing, nothing truncated, as these change the distribution
CONTINUOUS: dict[str, dict[str, Any]] = {
    "sac": {"temperature": 1e-3},
    "td3": {"target_noise": 0.0},
    "tqc": {"temperature": 1e-3, "drop": 0},
    "dsac": {"temperature": 1e-3},
    "dsac_quantile": {"temperature": 1e-3},
}
#: head -> gradient steps, first learning rate, bound
CONTINUOUS_HEADS: dict[str, tuple[int, float, float]] = {
    "scalar": (600, 5e-3, 0.25),
    "two_hot": (1000, 1e-2, 0.55),
    "categorical": (600, 1e-2, 0.55),
    "quantile": (600, 5e-3, 0.45),
    "iqn": (800, 1e-2, 0.8),
    "fqf": (600, 5e-3, 0.6),
    "gaussian": (600, 5e-3, 0.25),
    "mixture": (600, 5e-3, 0.25),
}
CONTINUOUS_CELLS = [
    *((name, head) for name in ("sac", "td3") for head in CONTINUOUS_HEADS),
    *(("tqc", "quantile"), ("dsac", "gaussian"), ("dsac_quantile", "quantile")),
]


@pytest.mark.parametrize(("name", "head"), CONTINUOUS_CELLS, ids=map("-".join, CONTINUOUS_CELLS))
def test_continuous_learners(name: str, head: str):
    """Distributions of the policy's own actions, while it learns that larger ones pay more."""
    steps, rate, bound = CONTINUOUS_HEADS[head]
    options = {"gamma": cases.GAMMA, "tau": 0.1, "learning_rate": falling(rate), "critic_head": head_of(head)}
    box = spaces.Box(-1.0, 1.0, (1,), np.float32)
    learner = make_learner(name, hidden=(32,), spaces=(cases.STATES, box), **options, **CONTINUOUS[name])
    rng = np.random.default_rng(0)
    first = max(cases.continuous_errors(learner, CHAIN[head]))
    for step in range(steps):
        learner.resolve(step, steps)
        learner.update(cases.continuous_batch(CHAIN[head], 128, rng), rng)
    assert float(cases.own_actions(learner).min()) > 0.4
    assert max(cases.continuous_errors(learner, CHAIN[head])) < bound < first


# ---- policy gradients ----------------------------------------------------------------------------------------------

#: head -> bound
POLICY_HEADS = {
    "scalar": 0.3,
    "two_hot": 0.3,
    "categorical": 0.3,
    "quantile": 0.35,
    "iqn": 0.45,
    "fqf": 0.45,
    "gaussian": 0.25,
    "mixture": 0.3,
}
#: learner -> updates, options
POLICY_GRADIENTS: dict[str, tuple[int, dict[str, Any]]] = {
    "ppo": (110, {"epochs": 2, "minibatches": 3}),
    "impala": (400, {"optimizer": "adam"}),
}


@pytest.mark.parametrize("head", POLICY_HEADS)
@pytest.mark.parametrize("name", POLICY_GRADIENTS)
def test_policy_gradients(name: str, head: str):
    """Distributions of the critic."""
    updates, options = POLICY_GRADIENTS[name]
    options = options | {"lam": 0.8, "learning_rate": falling(7e-3), "critic_head": head_of(head)}
    algorithm = cases.make_on_policy(name, value_coef=1.0, max_grad_norm=None, **options)
    rng = np.random.default_rng(0)
    first = max(cases.critic_errors(algorithm, CHAIN[head]))
    for number in range(updates):
        algorithm.resolve(number, updates)
        update(algorithm, cases.chain_rollout(algorithm, CHAIN[head], rng), number)
    assert max(cases.critic_errors(algorithm, CHAIN[head])) < POLICY_HEADS[head] < first


# ---- completeness --------------------------------------------------------------------------------------------------


def test_every_head_has_a_cell_or_is_refused():
    assert set(HEADS) == set(FAMILIES)
    assert {head for _, head in Q_CELLS} == set(FAMILIES)
    for name in ("sac", "td3", "ppo", "impala"):
        covered = POLICY_HEADS if name in POLICY_GRADIENTS else CONTINUOUS_HEADS
        assert set(FAMILIES) - set(covered) == {"joint"}
        make = cases.make_on_policy if name in POLICY_GRADIENTS else make_learner
        with pytest.raises(ConfigError, match="several reward channels"):
            make(name, critic_head="joint")
