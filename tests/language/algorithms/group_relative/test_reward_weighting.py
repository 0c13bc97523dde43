"""Dynamic reward weights: influence from gradients, the factor from the front, state of both."""

from __future__ import annotations

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.language.advantages.group import grpo
from distrl.language.rewards.weights import gradient_influence, hypervolume_factor, mirror_step
from tests.support.text_worlds import TextWorld, same_next_update

NAME = "dynamic_reward_weighting"


def test_weights_move_by_the_influence_of_gradients() -> None:
    world = TextWorld(NAME, regularizer=1e-3, least_weight=0.0)
    algorithm = world.algorithm
    assert algorithm.plan.names == ["success", "placed"]
    batch = algorithm.prepare(world.batch(0))
    gradients = [
        world.gradient(batch.with_(advantage=grpo(batch.raw_reward_components[:, k], batch.group))) for k in range(2)
    ]  # of each reward alone
    influence = gradient_influence(torch.stack(gradients)).double()
    assert float(influence.abs().min()) > 0
    expected = mirror_step(torch.full((2,), 0.5, dtype=torch.float64), influence, rate=1.0)
    assert abs(float(expected[0]) - 0.5) > 1e-3
    torch.testing.assert_close(batch.reward, batch.raw_reward_components @ expected, atol=1e-4, rtol=1e-4)
    assert algorithm.part_weights.tolist() == [0.5, 0.5]  # until the update stands
    world.turn(0)
    torch.testing.assert_close(algorithm.part_weights, expected, atol=1e-4, rtol=1e-4)
    assert float(algorithm.part_weights.sum()) == pytest.approx(1.0)
    assert world.metrics["policy/weight_success"] == pytest.approx(float(expected[0]), abs=1e-4)


def test_influence_may_be_averaged_over_batches_and_some_parameters() -> None:
    world = TextWorld(NAME, accumulate=2, influence_parameters="layers.1.")
    world.turn(0)
    assert world.algorithm.part_weights.tolist() == [0.5, 0.5]
    assert world.algorithm.measured == 1
    world.turn(1)
    assert world.algorithm.part_weights.tolist() != [0.5, 0.5]
    assert world.algorithm.measured == 0
    nowhere = TextWorld(NAME, influence_parameters="layers.7.")
    with pytest.raises(ConfigError, match=r"layers\.7"):
        nowhere.turn(0)


def test_new_trade_offs_scale_the_next_advantages() -> None:
    world = TextWorld(NAME, mode="hypervolume")
    algorithm = world.algorithm
    first = algorithm.prepare(world.batch(0))
    torch.testing.assert_close(first.advantage, grpo(first.reward, first.group))
    world.turn(0)
    point = first.components.mean(0)
    torch.testing.assert_close(algorithm.front, point[None])
    algorithm.front = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)  # nothing in [0, 1] adds volume
    batch = algorithm.prepare(world.batch(1))
    torch.testing.assert_close(batch.advantage, 0.5 * grpo(batch.reward, batch.group))
    algorithm.front = torch.tensor([[0.01, 0.01]], dtype=torch.float64)
    batch = algorithm.prepare(world.batch(1))
    gain = float(batch.components.mean(0).prod()) - 1e-4
    assert gain > 0
    torch.testing.assert_close(batch.advantage, hypervolume_factor(gain) * grpo(batch.reward, batch.group))
    algorithm.after_update(batch, {})
    torch.testing.assert_close(algorithm.front, batch.components.mean(0)[None])  # the dominated point is gone


@pytest.mark.parametrize("options", [{"mode": "hypervolume"}, {"mode": "gradient"}, {"accumulate": 3}])
def test_the_state_alone_decides_the_next_updates(options) -> None:
    same_next_update(TextWorld(NAME, **options))


def test_one_reward_has_no_weights() -> None:
    with pytest.raises(ConfigError, match="several rewards"):
        TextWorld(NAME, reward={"components": {"success": {}}})
    with pytest.raises(ConfigError, match="expected > 0"):
        TextWorld(NAME, reward={"components": {"success": {}, "placed": {"weight": 0.0}}})
