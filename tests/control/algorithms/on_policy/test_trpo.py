"""TRPO: lengths of steps, the trust region, the line search, and what may move."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.config.sections.model import ModelConfig
from distrl.control.algorithms.on_policy.trpo import TRPO
from distrl.control.models.actor_critic import build_actor_critic
from tests.learning.rollouts import ACTIONS, VECTOR, make_algorithm, make_rollout, update, weights


def make_trpo(action: str = "discrete", **options: Any) -> TRPO:
    algorithm = make_algorithm("trpo", action=ACTIONS[action], **options)
    assert isinstance(algorithm, TRPO)
    return algorithm


def policy_part(algorithm: TRPO) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in algorithm.policy_parameters])


def rows_of(algorithm: TRPO, rollout: Any) -> Any:
    with torch.no_grad():
        return algorithm.training_rows(algorithm.prepare(rollout))


@pytest.mark.parametrize(("damping_in_length", "expected"), [(False, 0.1414), (True, 0.1348)])
def test_step_length_of_a_gaussian_mean(damping_in_length: bool, expected: float):
    """A Gaussian whose mean is one bias, sigma 1: F = 1, so the mean moves by sqrt(2 * 0.01)."""
    space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    algorithm = make_algorithm("trpo", action=space, max_kl=0.01, cg_damping=0.1, lam=0.0)
    assert isinstance(algorithm, TRPO)
    rollout = make_rollout(algorithm, action=space, steps=16)
    rows = rows_of(algorithm, rollout)
    names = dict(zip(algorithm.policy_names, algorithm.policy_parameters, strict=True))
    bias = names["policy.head.bias"]
    algorithm.policy_parameters, algorithm.policy_names = [bias], ["policy.head.bias"]
    fisher = algorithm.fisher_product(algorithm.cut(rows))
    gradient = torch.zeros_like(algorithm.flat.data)
    algorithm.flat.views(gradient)["policy.head.bias"].fill_(0.3)
    torch.testing.assert_close(fisher(gradient), gradient, rtol=1e-5, atol=1e-6)
    direction = gradient / 1.1
    product = fisher(direction) + (0.1 * direction if damping_in_length else 0.0)
    length = direction.norm() * math.sqrt(2 * 0.01 / float(direction.dot(product)))
    assert float(length) == pytest.approx(expected, abs=1e-4)
    if not damping_in_length:
        step = taken_step(algorithm, rows, gradient)
        assert float(algorithm.flat.views(step)["policy.head.bias"]) == pytest.approx(expected, abs=1e-4)


def taken_step(algorithm: TRPO, rows: Any, ascent: torch.Tensor) -> torch.Tensor:
    """The first step that `policy_step` would try, for a given gradient of the surrogate."""
    tried: list[torch.Tensor] = []

    def fixed_gradient(batch: Any, loss: Any) -> Any:
        algorithm.flat.grad.copy_(-ascent)

    def record(shards: Any, step: torch.Tensor) -> dict[str, float]:
        tried.append(step)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm, "gradient", fixed_gradient)
        patch.setattr(algorithm, "line_search", record)
        algorithm.policy_step(rows)
    return tried[0]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("action", ["discrete", "box"])
def test_the_fisher_product_is_that_of_the_whole_matrix(action: str, shards: int):
    """Against forward-mode derivatives: the Jacobian of the parameters, and the divergence's Hessian in them."""
    algorithm = make_trpo(action, shards=shards, hidden=(3,))
    rollout = make_rollout(algorithm, action=ACTIONS[action], steps=6, envs=2, burnt=True)
    rows = rows_of(algorithm, rollout)
    product = algorithm.fisher_product(algorithm.cut(rows))
    v = torch.zeros_like(algorithm.flat.data)
    for name in algorithm.policy_names:
        view = algorithm.flat.views(v)[name]
        view.copy_(torch.linspace(-1.0, 1.0, view.numel()).view(view.shape))
    expected = gauss_newton_product(algorithm, rows, v)
    torch.testing.assert_close(product(v), expected, rtol=1e-3, atol=1e-5)


def gauss_newton_product(algorithm: TRPO, rows: Any, v: torch.Tensor) -> torch.Tensor:
    """J^T H J v with J the Jacobian of the distribution's parameters and H the Hessian of KL in them."""
    names = algorithm.policy_names
    parameters = {
        name.removeprefix("policy."): parameter.detach()
        for name, parameter in zip(names, algorithm.policy_parameters, strict=True)
    }
    tangent = {name.removeprefix("policy."): algorithm.flat.views(v)[name] for name in names}

    def params_of(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(algorithm.policy, values, (rows.obs,))[0]

    actions = algorithm.policy.actions
    params, moved = torch.func.jvp(params_of, (parameters,), (tangent,))[:2]

    def kl(q: torch.Tensor) -> torch.Tensor:
        return (actions.kl(params.detach(), q) * rows.valid).sum() / rows.valid.sum()

    curved = torch.func.jvp(torch.func.grad(kl), (params.detach(),), (moved,))[1]
    pull = torch.func.vjp(params_of, parameters)[1]
    result = torch.zeros_like(v)
    for name, value in pull(curved)[0].items():
        algorithm.flat.views(result)[f"policy.{name}"].copy_(value)
    return result


@pytest.mark.parametrize("action", ACTIONS)
def test_a_step_improves_the_surrogate_inside_the_trust_region(action: str):
    algorithm = make_trpo(action, max_kl=0.01)
    for number in range(3):
        rollout = make_rollout(algorithm, action=ACTIONS[action], steps=16, seed=number, burnt=True)
        rows = rows_of(algorithm, rollout)
        surrogate_before, kl_before = algorithm.measure(algorithm.cut(rows))
        critic = torch.nn.utils.parameters_to_vector(algorithm.model.critic.parameters()).detach()
        metrics, _ = algorithm.policy_step(rows)
        surrogate, kl = algorithm.measure(algorithm.cut(rows))
        assert kl_before == pytest.approx(0.0, abs=1e-7)
        assert 0 < kl <= 0.01
        assert surrogate > surrogate_before
        assert metrics["policy/step_kl"] == kl
        assert 0 < metrics["policy/step_scale"] <= 1
        assert torch.equal(torch.nn.utils.parameters_to_vector(algorithm.model.critic.parameters()), critic)


def test_zero_advantage_moves_only_the_critic():
    algorithm = make_trpo(lam=0.0, gamma=0.0)
    rollout = make_rollout(algorithm, steps=16)
    with torch.no_grad():
        algorithm.model.critic.head.weight.zero_()  # every value is 0
    rollout = rollout.with_(reward=torch.full_like(rollout.reward, 2.0))  # every advantage is 2; normalized, 0
    policy, everything = policy_part(algorithm), weights(algorithm)
    metrics = update(algorithm, rollout)
    assert torch.equal(policy_part(algorithm), policy)
    assert not torch.equal(weights(algorithm), everything)
    assert metrics["policy/step_scale"] == 0.0


def test_the_critics_epochs_leave_the_policy_alone():
    algorithm = make_trpo()
    rows = rows_of(algorithm, make_rollout(algorithm, steps=16))
    before = policy_part(algorithm)
    for _ in range(5):
        algorithm.step(rows)
    assert torch.equal(policy_part(algorithm), before)


def test_a_step_that_does_not_improve_is_not_taken():
    algorithm = make_trpo()
    rows = rows_of(algorithm, make_rollout(algorithm, steps=16))
    algorithm.gradient(rows, algorithm.negative_surrogate)
    before, downhill = weights(algorithm), 0.01 * algorithm.flat.grad.clone()
    metrics = algorithm.line_search(algorithm.cut(rows), downhill)
    assert metrics["policy/step_scale"] == 0.0
    assert torch.equal(weights(algorithm), before)


def test_the_line_search_shortens_a_step_that_leaves_the_trust_region():
    algorithm = make_trpo(max_kl=0.01, backtracks=15, backtrack_factor=0.5)
    rows = rows_of(algorithm, make_rollout(algorithm, steps=16))
    algorithm.gradient(rows, algorithm.negative_surrogate)
    uphill = -algorithm.flat.grad / algorithm.flat.grad.norm()
    before = weights(algorithm)
    metrics = algorithm.line_search(algorithm.cut(rows), 100.0 * uphill)
    scale = metrics["policy/step_scale"]
    assert 0 < scale < 0.5
    torch.testing.assert_close(weights(algorithm), before + 100.0 * scale * uphill)


@pytest.mark.parametrize("options", [{"shared": True}, {"recurrent": "gru"}])
def test_shared_parameters_are_refused(options: dict[str, Any]):
    model = build_actor_critic(VECTOR, ACTIONS["discrete"], ModelConfig(hidden=[4], **options))
    with pytest.raises(ConfigError, match="share parameters"):
        TRPO(TRPO.Config(name="trpo"), model)


def test_networks_large_enough_for_the_written_out_backward_pass_still_have_second_derivatives():
    algorithm = make_trpo(hidden=(64, 64))
    rollout = make_rollout(algorithm, steps=64, envs=8)
    assert update(algorithm, rollout)["policy/step_kl"] > 0
