"""APPO: the target policy and the adaptive penalty."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.learning.rollouts import make_algorithm, make_rollout, update, weights, whole_gradient


def test_the_target_moves_after_every_so_many_updates():
    algorithm = make_algorithm("appo", target_every=2)
    first = weights(algorithm)
    update(algorithm, make_rollout(algorithm, seed=0), 0)
    assert torch.equal(algorithm.target, first)
    update(algorithm, make_rollout(algorithm, seed=1), 1)
    assert torch.equal(algorithm.target, weights(algorithm))
    assert not torch.equal(algorithm.target, first)


def test_the_target_begins_with_weights_that_were_loaded_after_construction():
    algorithm, other = make_algorithm("appo"), make_algorithm("appo", seed=3)
    algorithm.model.load_state_dict(other.model.state_dict())
    rollout = make_rollout(other, stale=0.5)
    assert update(algorithm, rollout) == update(other, rollout)
    assert torch.equal(weights(algorithm), weights(other))


def test_importance_weights_are_the_targets_and_values_are_the_critics():
    algorithm = make_algorithm("appo", target_every=5, learning_rate=0.05)
    rollout = make_rollout(algorithm, steps=12)
    before = algorithm.prepare(rollout)
    update(algorithm, rollout)
    after = algorithm.prepare(rollout)
    torch.testing.assert_close(after.target_params, before.target_params, rtol=0, atol=0)
    assert not torch.equal(after.value, before.value)
    assert (algorithm.rollout_params(rollout) - after.target_params).abs().max() > 0.01


def test_weights_survive_a_failure_inside_target_weights():
    algorithm = make_algorithm("appo", target_every=9)
    update(algorithm, make_rollout(algorithm))
    before = weights(algorithm)
    seen = []

    def fail() -> None:
        with algorithm.target_weights():
            seen.append(weights(algorithm))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(seen[0], algorithm.target)
    assert torch.equal(weights(algorithm), before)


@pytest.mark.parametrize(("kl_target", "factor"), [(1e-9, 2.0), (1e3, 0.5)])
def test_the_coefficient_follows_the_divergence(kl_target: float, factor: float):
    algorithm = make_algorithm("appo", kl_coefficient=0.4, kl_target=kl_target)
    metrics = update(algorithm, make_rollout(algorithm))
    assert algorithm.kl_coefficient == pytest.approx(0.4 * factor)
    assert metrics["policy/kl_coef"] == algorithm.kl_coefficient
    assert metrics["policy/kl_target"] > 0


def test_the_coefficient_does_not_vanish():
    algorithm = make_algorithm("appo", kl_coefficient=1e-4, kl_target=1e3)
    update(algorithm, make_rollout(algorithm))
    assert algorithm.kl_coefficient == 1e-4


def test_the_penalty_holds_the_policy_near_the_target():
    options: dict[str, Any] = {
        "learning_rate": 0.01,
        "epochs": 20,
        "minibatches": 1,
        "normalize_advantage": False,
        "clip": 10.0,
    }
    free, held = make_algorithm("appo", **options), make_algorithm("appo", kl_coefficient=100.0, **options)
    rollout = make_rollout(free, steps=16)
    update(free, rollout)
    update(held, rollout)
    assert held.diagnose(rollout)["policy/kl"] < 0.3 * free.diagnose(rollout)["policy/kl"]


def test_the_ratio_is_to_the_behavior_policy():
    algorithm = make_algorithm("appo", clip=0.2, normalize_advantage=False, entropy_coef=0.0, value_coef=0.0)
    rollout = make_rollout(algorithm, steps=12)
    rollout = rollout.with_(reward=rollout.reward + 50.0)  # every advantage is positive
    fresh = whole_gradient(algorithm, rollout)
    moved_on = whole_gradient(algorithm, rollout.with_(logp=rollout.logp - 0.3))  # all ratios 1.35: clipped
    assert fresh.abs().max() > 0.1
    assert moved_on.abs().max() == 0.0
