"""Short trainings: after a few updates the same questions are answered better."""

from __future__ import annotations

import pytest
import torch

from distrl.language.chain.groups import Groups
from tests.support.text_worlds import TextWorld

NAMES = ["riskpo", "copo", "pipo", "rapo", "dcpo", "aepo", "knapsack", "dynamic_reward_weighting"]


def success(world: TextWorld) -> float:
    """Mean over 24 prompts of the success of their answers at the run's own temperature."""
    rates = []
    for seq in (100, 101, 102):
        batch = world.batch(seq)
        batch = batch[batch.temperature_scale == 1.0] if "temperature_scale" in batch else batch
        rates.append(Groups(batch.group).mean(batch.correct.double()))
    return float(torch.cat(rates).mean())


@pytest.mark.parametrize("name", NAMES)
def test_answers_become_better(name: str) -> None:
    world = TextWorld(name, group_size=16, learning_rate=1e-3)
    before = success(world)
    assert 0.5 < before < 0.75
    for seq in range(16):
        world.turn(seq)
    assert success(world) > before + 0.02
