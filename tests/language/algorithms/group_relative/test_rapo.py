"""RAPO: the flattened reference."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support.text_worlds import TextWorld, same_next_update


def drawn_logits(world: TextWorld, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (K, V) that the masked tokens were drawn from, and those tokens (K,)."""
    model = world.algorithm.language
    rows, columns = batch.mask.nonzero(as_tuple=True)
    with torch.no_grad():
        return model.logits(model.hidden(batch.tokens)[rows, columns - 1]), batch.tokens[rows, columns]


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_rapos_reference_is_flat_where_answers_failed(trust: float) -> None:
    world = TextWorld("rapo", least_trust=trust)
    batch = world.algorithm.prepare(world.batch(0))  # the policy is the reference still
    logits, tokens = drawn_logits(world, batch)
    phi = (trust + (1 - trust) * batch.reward.float())[batch.mask.nonzero(as_tuple=True)[0]]
    expected = torch.log_softmax(phi[:, None] * logits, -1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(batch.tempered_ref_logp[batch.mask], expected, atol=1e-4, rtol=1e-4)
    if trust == 1.0:
        torch.testing.assert_close(batch.tempered_ref_logp, world.algorithm.reference_logp(batch))
    if trust == 0.0:
        failed = batch.mask & (batch.reward == 0)[:, None]
        flat = torch.full_like(batch.tempered_ref_logp[failed], -math.log(logits.shape[1]))
        torch.testing.assert_close(batch.tempered_ref_logp[failed], flat)


def test_rapo_without_its_terms_is_grpo() -> None:
    world, other = TextWorld("rapo", beta=0.0, divergence=None, entropy_coef=0.0), TextWorld("grpo")
    assert world.turn(0).checksum() == other.turn(0).checksum()


@pytest.mark.parametrize("name", ["rapo"])
def test_the_state_alone_decides_the_next_updates(name: str) -> None:
    same_next_update(TextWorld(name))
