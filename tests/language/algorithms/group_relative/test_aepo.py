"""AEPO: what is drawn at another temperature, what it replaces, and that all of it resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distrl.language.algorithms.group_relative.aepo import RepeatedSamples
from distrl.language.curricula.replacement import replacement_count
from distrl.language.models.weights import extras_of
from tests.support.text_worlds import TextWorld, same_next_update


def heats(world: TextWorld, seq: int) -> list[Any]:
    return [data.rollout.get("temperature_scale") for data in world.fragments(seq)]


def test_a_quarter_of_the_prompts_is_answered_again() -> None:
    plan = RepeatedSamples(8, 0.25)
    usual = plan([[1]] * 8, {}, np.random.default_rng(0))
    assert [draw.answers for draw in usual] == [8] * 8
    drawn = plan([[1]] * 8, {"aepo.temperature_scale": np.array(1.2)}, np.random.default_rng(0))
    assert drawn[:8] == usual
    assert [(draw.answers, draw.temperature_scale) for draw in drawn[8:]] == [(8, 1.2)] * 2
    assert len({draw.prompt for draw in drawn[8:]}) == 2


def test_without_replacements_it_is_grpo() -> None:
    one, other = TextWorld("aepo", replaced=0.0), TextWorld("grpo")
    for seq in range(3):
        assert heats(one, seq) == [None, None]
        assert np.array_equal(one.turn(seq).buffer, other.turn(seq).buffer)


@pytest.mark.parametrize(("target", "scale"), [(5.0, 1.2), (0.0, 0.8)])
def test_redrawn_right_answers_replace_some(target: float, scale: float) -> None:
    world = TextWorld("aepo", target_entropy=target, replaced=0.25)
    assert heats(world, 0) == [None, None]  # the entropy is not known yet
    world.turn(0)
    algorithm = world.algorithm
    assert algorithm.last_entropy == world.metrics["policy/entropy"]
    assert float(extras_of(world.weights)["aepo.temperature_scale"]) == scale
    batch = world.batch(1)
    again = batch.temperature_scale != 1.0
    assert batch.temperature_scale[again].unique().tolist() == pytest.approx([scale])
    assert int(again.sum()) == 2 * 8  # one prompt in each stream
    # they were really drawn at that temperature
    torch.testing.assert_close(
        algorithm.scored(batch[again], scale)[batch.mask[again]],
        batch.logp[again][batch.mask[again]],
        atol=1e-4,
        rtol=0,
    )
    usual = algorithm.prepare(batch)
    assert len(usual.group) == 64
    redrawn = algorithm._redrawn
    torch.testing.assert_close(redrawn.old_logp, algorithm.scored(batch[again]))
    mixed = algorithm.replace(usual, np.random.default_rng(0))
    new = torch.isin(mixed.group, redrawn.group)
    right = int((redrawn.advantage > 0.05).sum())
    assert right > 0
    assert int(new.sum()) == min(right, replacement_count(algorithm.last_entropy, target, 16))
    assert torch.all(mixed.advantage[new] == 1.0)
    assert torch.all(mixed.correct[new])
    assert torch.equal(mixed.tokens[~new], usual.tokens[~new])
    world.turn(1)
    assert world.metrics["text/replaced"] == int(new.sum()) / 64


def test_the_gate_does_not_take_them_for_a_fault() -> None:
    world = TextWorld("aepo", target_entropy=5.0)
    world.learner.gate.settings = world.learner.gate.settings.model_copy(update={"every": 1})
    for seq in range(3):
        world.turn(seq)
        assert world.metrics["text/mismatch_mean"] < 1e-3
    assert heats(world, 3)[0] is not None


def test_a_prompt_without_right_answers_replaces_nothing() -> None:
    world = TextWorld("aepo", target_entropy=5.0)
    world.turn(0)
    batch = world.batch(1)
    wrong = batch.with_(components=torch.zeros_like(batch.components), correct=torch.zeros_like(batch.correct))
    usual = world.algorithm.prepare(wrong)
    assert world.algorithm.replace(usual, np.random.default_rng(0)) is usual


def test_the_state_alone_decides_the_next_updates() -> None:
    same_next_update(TextWorld("aepo"))
