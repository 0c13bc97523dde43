"""PPO: where the first ratio is 1 it is A2C; what its clips and stops do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.learning.rollouts import make_algorithm, make_rollout, update, weights, whole_gradient


def test_the_first_ratio_is_one():
    algorithm = make_algorithm("ppo")
    rollout = make_rollout(algorithm, steps=16)
    params = algorithm.rollout_params(rollout)
    ratio = (algorithm.policy.actions.logp(params, rollout.action) - rollout.logp).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_first_gradient_is_that_of_a2c(normalize: bool):
    common: dict[str, Any] = {
        "lam": 0.9,
        "gamma": 0.97,
        "value_coef": 0.5,
        "entropy_coef": 0.01,
        "normalize_advantage": normalize,
    }
    ppo, a2c = make_algorithm("ppo", clip=0.2, **common), make_algorithm("a2c", **common)
    rollout = make_rollout(ppo, steps=16, masks=True)
    torch.testing.assert_close(whole_gradient(ppo, rollout), whole_gradient(a2c, rollout), rtol=1e-4, atol=1e-6)


def test_a_later_gradient_is_not_that_of_a2c():
    ppo, a2c = make_algorithm("ppo"), make_algorithm("a2c", lam=0.95, value_coef=0.5, normalize_advantage=True)
    rollout = make_rollout(ppo, steps=16, stale=1.0)
    assert (whole_gradient(ppo, rollout) - whole_gradient(a2c, rollout)).abs().max() > 1e-3


def test_a_divergence_above_the_limit_ends_the_epochs():
    options: dict[str, Any] = {"learning_rate": 0.05, "epochs": 10, "minibatches": 2}
    free, limited = make_algorithm("ppo", **options), make_algorithm("ppo", target_kl=0.01, **options)
    rollout = make_rollout(free, steps=16)
    assert update(free, rollout)["policy/minibatches"] == 20
    metrics = update(limited, rollout)
    assert metrics["policy/minibatches"] < 20
    assert metrics["loss/kl"] > 1.5 * 0.01


def test_clip_fraction_counts_rows_outside_the_clip():
    algorithm = make_algorithm("ppo", clip=0.2)
    rollout = make_rollout(algorithm, steps=10, envs=2)
    assert algorithm.diagnose(rollout)["policy/clip_fraction"] == 0.0
    logp = rollout.logp.clone()
    logp[0] += 0.3  # ratio 0.74
    logp[1] -= 0.3  # ratio 1.35
    assert algorithm.diagnose(rollout.with_(logp=logp))["policy/clip_fraction"] == pytest.approx(0.2)


def test_dual_clip_bounds_what_stale_rows_of_bad_actions_push():
    free, bounded = make_algorithm("ppo"), make_algorithm("ppo", dual_clip=3.0)
    rollout = make_rollout(free, steps=16)
    rollout = rollout.with_(logp=rollout.logp - 5.0)  # ratios near 148
    assert whole_gradient(bounded, rollout).norm() < 0.1 * whole_gradient(free, rollout).norm()


def test_the_clip_of_values_stops_their_gradient():
    options: dict[str, Any] = {"normalize_advantage": False, "gamma": 0.0}
    algorithm = make_algorithm("ppo", clip_value=0.01, **options)
    rollout = make_rollout(algorithm, steps=16)
    with torch.no_grad():
        rows = algorithm.training_rows(algorithm.prepare(rollout.with_(reward=rollout.reward + 100.0)))
        moved = rows.with_(value=rows.value - 1.0)  # the critic has moved up by 1, towards the returns near 100
    algorithm.gradient(moved, algorithm.loss)
    critic = [parameter.grad for parameter in algorithm.model.critic.parameters()]
    assert all(grad is not None and not grad.any() for grad in critic)


def test_advantages_are_normalized_in_each_minibatch():
    algorithm = make_algorithm("ppo")
    rollout = make_rollout(algorithm, steps=12, burnt=True)
    rows = algorithm.training_rows(algorithm.prepare(rollout))
    batch = algorithm.prepare_minibatch(rows[torch.arange(0, 48, 2)])
    counted = batch.advantage[batch.valid]
    assert counted.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert counted.std().item() == pytest.approx(1.0, abs=1e-5)


def test_every_row_is_used_once_in_an_epoch():
    algorithm = make_algorithm("ppo", minibatches=3)
    rollout = make_rollout(algorithm, steps=8, envs=4)
    rows = algorithm.training_rows(algorithm.prepare(rollout)).with_(number=torch.arange(32))
    rng = np.random.default_rng(0)
    epochs = [[batch.number.tolist() for batch in algorithm.minibatches(rows, 3, rng)] for _ in range(2)]
    first, second = ([n for batch in epoch for n in batch] for epoch in epochs)
    assert sorted(first) == sorted(second) == list(range(32))
    assert first != second
    assert {len(batch) for batch in epochs[0]} == {10, 11}


def test_zero_learning_rate_moves_nothing():
    algorithm = make_algorithm("ppo", learning_rate=0.0)
    before = weights(algorithm)
    update(algorithm, make_rollout(algorithm))
    assert torch.equal(weights(algorithm), before)
