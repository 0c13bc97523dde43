"""IMPALA: V-trace's numbers reach the loss; on fresh data it is A2C."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from distrl.base.columns import Columns
from distrl.control.algorithms.on_policy.base import OnPolicy
from tests.learning.rollouts import make_algorithm, make_rollout, whole_gradient


def constant_values(algorithm: OnPolicy, bias: float = 0.0) -> OnPolicy:
    """Make V(x) = x[0] + bias: so that a test can say what every observation is worth."""
    with torch.no_grad():
        for parameter in algorithm.model.critic.parameters():
            parameter.zero_()
        # tanh(1e-3 x) is 1e-3 x to 1e-9
        algorithm.model.critic.torso.dense.layers[0].weight[0, 0] = 1e-3
        algorithm.model.critic.head.weight[0, 0] = 1e3
        algorithm.model.critic.head.bias[0] = bias
    return algorithm


def two_steps(algorithm: OnPolicy) -> Columns:
    """The method notes' example CB7: r = (1, 1), V = (0, 0), bootstrap 1, pi / mu = (2, 0.5)."""
    rollout = make_rollout(algorithm, steps=2, envs=1)
    no = torch.zeros(2, 1, dtype=torch.bool)
    return rollout.with_(
        obs=torch.zeros(2, 1, 3),
        last_obs=torch.tensor([[1.0, 0.0, 0.0]]),
        reward=torch.ones(2, 1),
        terminated=no,
        truncated=no,
        final_obs=torch.zeros(0, 3),
        final_index=torch.zeros(0, 2, dtype=torch.int64),
        logp=own_logp(algorithm, rollout.with_(obs=torch.zeros(2, 1, 3))) - torch.tensor([[2.0], [0.5]]).log(),
    )


def own_logp(algorithm: OnPolicy, rollout: Columns) -> torch.Tensor:
    with torch.no_grad():
        return algorithm.policy.actions.logp(algorithm.rollout_params(rollout), rollout.action)


@pytest.mark.parametrize("name", ["impala", "appo"])
def test_vtrace_in_numbers(name: str):
    algorithm = constant_values(make_algorithm(name, gamma=0.9, hidden=(4,)))
    prepared = algorithm.prepare(two_steps(algorithm))
    assert prepared.returns.flatten().tolist() == pytest.approx([1.855, 0.95], abs=1e-5)
    assert prepared.advantage.flatten().tolist() == pytest.approx([1.855, 0.95], abs=1e-5)


def test_the_bars_reach_vtrace():
    options: dict[str, Any] = {"gamma": 0.9, "hidden": (4,)}
    algorithm = constant_values(make_algorithm("impala", rho_bar=2.0, c_bar=1.0, **options))
    # delta = (2 * 1, 0.5 * 1.9); vs_0 = 2 + 0.9 * 1 * 0.95; advantage_0 = 2 * (1 + 0.9 * 0.95)
    prepared = algorithm.prepare(two_steps(algorithm))
    assert prepared.returns.flatten().tolist() == pytest.approx([2.855, 0.95], abs=1e-5)
    assert prepared.advantage.flatten().tolist() == pytest.approx([3.71, 0.95], abs=1e-5)
    algorithm = constant_values(make_algorithm("impala", rho_bar=1.0, c_bar=0.5, lam=0.5, **options))
    prepared = algorithm.prepare(two_steps(algorithm))
    assert float(prepared.returns[0, 0]) == pytest.approx(1 + 0.9 * 0.25 * 0.95, abs=1e-5)


def test_the_loss_is_the_weighted_policy_gradient():
    algorithm = constant_values(make_algorithm("impala", gamma=0.9, entropy_coef=0.0, value_coef=0.5, hidden=(4,)))
    rollout = two_steps(algorithm)
    found = whole_gradient(algorithm, rollout)
    algorithm.flat.zero_grad()
    logp = algorithm.policy.actions.logp(algorithm.rollout_params(rollout), rollout.action).flatten()
    value = algorithm.model.value(rollout.obs[:, 0])
    loss = -(1.855 * logp[0] + 0.95 * logp[1]) / 2
    loss = loss + 0.5 * 0.5 * ((value[0] - 1.855) ** 2 + (value[1] - 0.95) ** 2) / 2
    loss.backward()
    torch.testing.assert_close(found, algorithm.flat.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recurrent", [None, "gru"])
def test_on_fresh_data_it_is_a2c(recurrent: str | None):
    options: dict[str, Any] = {"gamma": 0.95, "value_coef": 0.5, "entropy_coef": 0.01, "recurrent": recurrent}
    impala, a2c = make_algorithm("impala", **options), make_algorithm("a2c", lam=1.0, **options)
    rollout = make_rollout(impala, steps=12)
    torch.testing.assert_close(whole_gradient(impala, rollout), whole_gradient(a2c, rollout), rtol=1e-4, atol=1e-6)
    stale = make_rollout(impala, steps=12, stale=1.0)
    assert (whole_gradient(impala, stale) - whole_gradient(a2c, stale)).abs().max() > 1e-3


def test_optimizers():
    assert isinstance(make_algorithm("impala").trained.optimizer, torch.optim.RMSprop)
    assert make_algorithm("impala").trained.optimizer.param_groups[0]["eps"] == 0.1
    assert isinstance(make_algorithm("impala", optimizer="adam").trained.optimizer, torch.optim.Adam)


@pytest.mark.parametrize("name", ["impala", "appo"])
def test_staleness_metrics_in_numbers(name: str):
    algorithm = make_algorithm(name)
    assert algorithm.off_policy_correction
    rollout = make_rollout(algorithm, steps=4, envs=2)
    fresh = algorithm.diagnose(rollout)
    assert fresh["policy/abs_log_ratio"] == pytest.approx(0.0, abs=1e-6)
    assert fresh["policy/ess"] == pytest.approx(1.0, abs=1e-5)
    ratio = torch.tensor([3.0, 1.0]).repeat(4, 1)
    stale = algorithm.diagnose(rollout.with_(logp=own_logp(algorithm, rollout) - ratio.log()))
    assert stale["policy/abs_log_ratio"] == pytest.approx(math.log(3) / 2, abs=1e-5)
    assert stale["policy/ess"] == pytest.approx(16**2 / 40 / 8, abs=1e-5)  # (sum w)^2 / sum w^2 / rows
