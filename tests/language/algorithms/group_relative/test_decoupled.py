"""Decoupled PPO on fresh and on stale data, and the proximal policy between versions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distrl.base.errors import ConfigError
from tests.support.tiny_worlds import TinyWorld


def world(**algorithm: Any) -> TinyWorld:
    return TinyWorld(
        {
            "name": "decoupled_ppo",
            "group_size": 8,
            "minibatches": 1,
            "reward": {"components": {"placed": {}}},
            **algorithm,
        }
    )


def stale(made: TinyWorld, age: int = 3, scale: float = 0.15) -> Any:
    """A batch of weights that were `age` versions ago."""
    fragments = made.fragments()
    made.move(scale)
    made.learner.version = age
    return made.learner._batch(fragments, ())


def test_on_fresh_data_it_is_ordinary_ppo() -> None:
    for old in ("recompute", "versions"):
        made = world(old_logp=old)
        found = made.gradient(made.prepared())
        plain = TinyWorld({"name": "grpo", "group_size": 8, "minibatches": 1, "reward": {"components": {"placed": {}}}})
        expected = plain.gradient(plain.prepared())
        assert float(expected.norm()) > 1e-3
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("mode", "cap"), [("mask", 1.3), ("truncate", 1.3), ("mask", 1e9)])
def test_stale_tokens_keep_their_gradient_weighted_by_proximal_over_behavior(mode: str, cap: float) -> None:
    made = world(objective={"name": "decoupled_ppo", "cap": cap, "mode": mode})
    batch = made.algorithm.prepare(stale(made))
    found = made.gradient(batch)
    proximal = made.algorithm.scored(batch)
    assert torch.allclose(batch.old_logp, proximal, atol=1e-6)
    assert torch.equal(batch.behavior_logp, batch.logp)
    weight = (proximal - batch.behavior_logp).exp()
    assert bool((weight[batch.mask] > 1.3).any())
    assert bool((weight[batch.mask] < 0.8).any())
    weight = weight.clamp(max=cap) if mode == "truncate" else weight * (weight <= cap)
    logp = made.algorithm.token_logp_and_entropy(batch)[
        0
    ]  # at ratio 1 to the proximal policy PPO's gradient is REINFORCE's
    loss = -(weight * batch.advantage[:, None].float() * logp)[batch.mask].sum() / batch.mask.sum()
    expected = made.slow_gradient(loss)
    assert torch.allclose(found, expected, atol=1e-5)
    plain = TinyWorld({"name": "grpo", "group_size": 8, "reward": {"components": {"placed": {}}}})
    clipped = plain.gradient(plain.algorithm.prepare(stale(plain)))
    # the ratio to the behavior policy begins outside the clip range, so ordinary PPO has lost a part of the gradient
    cut = (weight > 1.2) & (batch.advantage[:, None] > 0) | (weight < 0.8) & (batch.advantage[:, None] < 0)
    assert bool(cut[batch.mask].any())
    assert not torch.allclose(clipped, expected, atol=1e-3)


def test_the_proximal_policy_between_versions() -> None:
    made = world(old_logp="versions")
    batch = made.algorithm.prepare(stale(made, age=3))
    assert batch.age[batch.mask].tolist() == [3] * int(batch.mask.sum())
    with torch.no_grad():
        part = made.algorithm.forward(made.algorithm.add_loss_weights(batch))
    expected = batch.behavior_logp + 0.75 * (part.logp - batch.behavior_logp)
    assert torch.allclose(part.old_logp[batch.mask], expected[batch.mask], atol=1e-6)


def test_wrong_words_are_named() -> None:
    with pytest.raises(ConfigError, match="behavior policy"):
        world(objective="token_ppo")
    with pytest.raises(ConfigError, match="recompute"):
        world(old_logp="behavior")
