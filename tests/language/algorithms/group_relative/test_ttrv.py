"""TTRV learns from agreement: what the verifier says changes nothing, and answers come to agree."""

from __future__ import annotations

import numpy as np
import torch

from distrl.language.advantages.batch import batch_normalized
from distrl.language.rewards.agreement import majority, ttrv
from tests.support.text_worlds import TextWorld


def test_the_verifier_is_not_learned_from() -> None:
    world = TextWorld("ttrv", group_size=8)
    batch = world.batch(0)
    told, flipped = (
        world.algorithm.prepare(batch.with_(components=p)) for p in (batch.components, 1.0 - batch.components)
    )
    assert not torch.equal(told.raw_reward_components, flipped.raw_reward_components)
    assert torch.equal(world.gradient(told), world.gradient(flipped))
    reward = ttrv(batch.answer, batch.group)
    assert torch.equal(told.reward, reward)
    assert torch.equal(told.advantage, batch_normalized(reward))
    assert world.algorithm.batch_metrics(told)["text/success"] == float(batch.correct.double().mean())


def test_a_hard_majority_is_another_word() -> None:
    world = TextWorld("ttrv", group_size=8, label_free="majority", advantage="grpo")
    batch = world.algorithm.prepare(world.batch(0))
    assert torch.equal(batch.reward, majority(batch.answer, batch.group))


def test_answers_come_to_agree() -> None:
    """Without a label the most frequent answer becomes more frequent, and success follows where it is right."""
    world = TextWorld("ttrv", group_size=16, learning_rate=5e-4)

    def look() -> np.ndarray:
        batches = [world.batch(seq) for seq in (100, 101, 102)]  # the same questions before and after
        return np.mean([[majority(b.answer, b.group).mean(), b.correct.double().mean()] for b in batches], axis=0)

    before = look()
    assert 0.5 < before[1] < 0.75
    for seq in range(18):
        world.turn(seq)
    agreement, success = look() - before
    assert agreement > 0.03
    assert success > 0.03
