"""Every algorithm that is more than a choice of links improves a tiny model in some seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.tiny_worlds import TinyWorld

#: Name -> its words; answers get better by at least 0.05 in success.
WORDS: dict[str, dict[str, Any]] = {
    "ppo_tokens": {},
    "decoupled_ppo": {},
    "rover": {},
    "tbrm": {"objective": {"name": "tbrm", "beta": 0.1}, "minibatches": 8},
    "flowrl": {"objective": {"name": "flowrl", "beta": 3.0}, "minibatches": 2},
    "a_star_po": {"objective": {"name": "a_star_po", "beta": 0.3}, "prompts": 32, "minibatches": 2},
}
UPDATES = 40


def success(world: TinyWorld) -> float:
    """Of 320 answers to the same prompts with the same random numbers, whatever was learned."""
    batches = [world.batch(1000 + number) for number in range(5)]
    return float(np.mean([batch.correct.float().mean() for batch in batches]))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WORDS))
def test_answers_get_better(name: str) -> None:
    world = TinyWorld({"name": name, "group_size": 8, "learning_rate": 5e-4, **WORDS[name]}, warm=60)
    before = success(world)
    for _ in range(UPDATES):
        world.step()
    assert success(world) > before + 0.05
