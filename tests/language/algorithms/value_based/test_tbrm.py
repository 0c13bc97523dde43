"""TBRM: values of raw logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.tiny_worlds import TinyWorld, prefix_states

PLACED = {"components": {"placed": {}}}


def logits(made: TinyWorld, batch: Any, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Slow: (K, V) of every trainable token's own prefix, and the tokens (K,)."""
    return made.algorithm.language.logits(prefix_states(made, batch)[1]) / temperature, batch.tokens[batch.mask]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tbrm_has_the_values_of_raw_logits(temperature: float) -> None:
    """Loss and gradient in the form z(s_1, a_1) + sum of the later log pi, which never mentions a logsumexp."""
    made = TinyWorld(
        {"name": "tbrm", "group_size": 2, "objective": {"name": "tbrm", "beta": 0.5}, "reward": PLACED},
        {"temperature": temperature},
    )
    batch = made.prepared()
    made.move()
    found = made.gradient(batch)
    with torch.no_grad():
        loss, _ = made.algorithm.loss(made.algorithm.forward(made.algorithm.add_loss_weights(batch)))
    z, tokens = logits(made, batch, temperature)
    index = torch.arange(len(tokens))
    raw, logp = z[index, tokens], z.log_softmax(-1)[index, tokens]
    rows = batch.mask.nonzero()[:, 0]
    first = torch.cat([torch.tensor([True]), rows[1:] != rows[:-1]])
    terms = torch.where(first, raw, logp) - batch.ref_logp[batch.mask]
    residual = torch.zeros(len(batch.tokens)).index_add(0, rows, terms) - batch.reward.float() / 0.5
    expected = residual.square().mean()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-4)
    gradient = made.slow_gradient(expected)
    assert torch.allclose(found, gradient, atol=1e-4, rtol=1e-3)


def test_tbrm_learns_a_bandits_distribution_and_value() -> None:
    """One token, rewards known: pi goes to pi_ref exp(r / beta) / Z, and the logsumexp to log Z."""
    made = TinyWorld(
        {"name": "tbrm", "group_size": 16, "objective": {"name": "tbrm", "beta": 1.0}}, {"max_new_tokens": 1}
    )
    batch = made.prepared()
    batch = batch[batch.group == batch.group[0]]  # one prompt
    token = batch.tokens[batch.mask]
    reward = (token == token[0]).double()
    batch = made.algorithm.add_loss_weights(batch.with_(reward=reward))
    optimizer = torch.optim.Adam([made.algorithm.flat.parameter()], lr=3e-3)
    for _ in range(150):
        made.algorithm.text_gradient(batch)
        optimizer.step()
    with torch.no_grad():
        part = made.algorithm.forward(batch)
        loss, _ = made.algorithm.loss(part)
    assert float(loss) < 1e-3
    tilted = part.logp[batch.mask] - batch.ref_logp[batch.mask] - reward.float()
    assert torch.allclose(tilted, -part.start_value, atol=0.05)
