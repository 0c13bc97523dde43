"""PIPO: GRPO until there is a history; then one step on the batch before, for or against it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.text_worlds import TextWorld, same_next_update


def test_without_a_history_it_is_grpo() -> None:
    worlds = [TextWorld(name) for name in ("pipo", "grpo")]
    for seq in range(3):  # the third update is the first with two means to compare with
        one, other = (world.turn(seq).checksum() for world in worlds)
        assert (one == other) == (seq < 2)


@pytest.mark.parametrize(("means", "factor"), [([0.0, 1e-6], 1.0), ([1.0, 1.0 - 1e-6], -1.0)])
def test_the_verifying_step_repeats_or_takes_back(means: list[float], factor: float) -> None:
    world = TextWorld("pipo")
    world.turn(0)
    algorithm = world.algorithm
    previous = algorithm.previous
    algorithm.means = means
    batch = algorithm.prepare(world.batch(1))
    steps = []
    for minibatch in algorithm.text_minibatches(batch, np.random.default_rng(0)):
        steps.append((algorithm.trained.optimizer.param_groups[0]["lr"], minibatch))
    (rate, verifying), (usual, explored) = steps
    assert (rate, usual) == (0.5e-3, 1e-3)
    torch.testing.assert_close(verifying.advantage, factor * previous.advantage)
    assert explored is batch
    # ratios of the verifying step are to the weights before the last update, which has moved them from 1
    drift = (algorithm.scored(previous) - verifying.old_logp)[previous.mask].abs().max()
    assert float(drift) > 1e-3
    own = world.gradient(previous)
    if factor > 0:
        torch.testing.assert_close(world.gradient(verifying), own)


def test_no_improvement_and_no_loss_is_no_step() -> None:
    world = TextWorld("pipo")
    world.turn(0)
    batch = world.algorithm.prepare(world.batch(1))
    mean = float(batch.reward.double().mean())
    world.algorithm.means = [mean - 0.1, mean, mean + 0.1]
    assert world.algorithm.improvement(batch) == 0
    assert world.algorithm.verifying(batch) is None
    world.algorithm.means = [mean + 0.1, mean + 0.3]
    assert world.algorithm.verifying(batch) is not None
    falling = TextWorld("pipo", shape="relu")
    falling.algorithm.previous, falling.algorithm.means = world.algorithm.previous, world.algorithm.means
    assert falling.algorithm.verifying(batch) is None


def test_the_state_alone_decides_the_next_updates() -> None:
    same_next_update(TextWorld("pipo"), updates=3)
