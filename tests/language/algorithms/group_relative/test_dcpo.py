"""DCPO: entropy held at a target."""

from __future__ import annotations

import pytest
import torch

from distrl.language.advantages.group import grpo
from tests.support.text_worlds import TextWorld, same_next_update


def test_dcpo_begins_as_grpo_and_then_holds_the_entropy() -> None:
    world, other = TextWorld("dcpo", target_entropy=0.25), TextWorld("grpo")
    algorithm = world.algorithm
    assert world.turn(0).checksum() == other.turn(0).checksum()
    assert algorithm.last_entropy == world.metrics["policy/entropy"] > 0.3
    batch = algorithm.prepare(world.batch(1))  # more entropy than wanted: the colder self teaches
    logits, tokens = drawn_logits(world, batch)
    change = torch.log_softmax(logits / 0.8, -1) - torch.log_softmax(logits, -1)
    rho = change.gather(1, tokens[:, None]).squeeze(1).exp()
    torch.testing.assert_close(batch.tempered_ratio[batch.mask], rho, atol=1e-4, rtol=1e-4)
    share = float(batch.correct.double().mean())
    a = 0.1 / share  # the distance to the target is cut at .1
    alpha = a / (1 + a)
    base = (1 - alpha) * grpo(batch.reward, batch.group)[:, None] * batch.mask
    pull = alpha * batch.correct[:, None] * batch.mask * batch.tempered_ratio
    torch.testing.assert_close(batch.advantage, base + pull, atol=1e-6, rtol=1e-5)
    assert world.turn(1).checksum() != other.turn(1).checksum()


def test_the_target_decides_the_temperature() -> None:
    world = TextWorld("dcpo")
    for entropy, sign in ((0.01, -1), (5.0, 1)):
        world.algorithm.last_entropy = entropy
        batch = world.algorithm.prepare(world.batch(0))
        logits, tokens = drawn_logits(world, batch)
        likeliest = logits.argmax(1) == tokens
        change = batch.tempered_ratio[batch.mask].log()[likeliest]
        assert torch.all(sign * change >= 0)  # a colder distribution makes the likeliest token likelier


def drawn_logits(world: TextWorld, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (K, V) that the masked tokens were drawn from, and those tokens (K,)."""
    model = world.algorithm.language
    rows, columns = batch.mask.nonzero(as_tuple=True)
    with torch.no_grad():
        return model.logits(model.hidden(batch.tokens)[rows, columns - 1]), batch.tokens[rows, columns]


@pytest.mark.parametrize("name", ["dcpo"])
def test_the_state_alone_decides_the_next_updates(name: str) -> None:
    same_next_update(TextWorld(name))
