"""ROVER: values of the random policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distrl.base.errors import ConfigError
from tests.support.tiny_worlds import TinyWorld, prefix_states

PLACED = {"components": {"placed": {}}}


def logits(made: TinyWorld, batch: Any, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Slow: (K, V) of every trainable token's own prefix, and the tokens (K,)."""
    return made.algorithm.language.logits(prefix_states(made, batch)[1]) / temperature, batch.tokens[batch.mask]


def test_rovers_first_step_is_dr_grpos() -> None:
    made = TinyWorld({"name": "rover", "group_size": 4, "objective": {"name": "rover", "rho": 0.5}, "reward": PLACED})
    batch = made.prepared()
    found = made.gradient(batch)
    reward = batch.reward.float()
    centered = torch.stack([r - reward[batch.group == g].mean() for r, g in zip(reward, batch.group, strict=True)])
    logp = made.algorithm.token_logp_and_entropy(batch)[0]
    expected = made.slow_gradient(-2 * 0.5 * (centered[:, None] * logp)[batch.mask].sum() / batch.mask.sum())
    assert float(expected.norm()) > 1e-3
    assert torch.allclose(found, expected, atol=1e-5)


def test_rover_bootstraps_from_the_mean_over_the_vocabulary() -> None:
    made = TinyWorld({"name": "rover", "group_size": 4, "micro_batch": 5, "reward": PLACED}, {"temperature": 0.7})
    batch = made.prepared()
    with torch.no_grad():
        before = logits(made, batch, 0.7)[0].log_softmax(-1)
        made.move()
        part = made.algorithm.forward(made.algorithm.add_loss_weights(batch))
        loss, _ = made.algorithm.loss(part)
        now, tokens = logits(made, batch, 0.7)
        now = now.log_softmax(-1)
    assert torch.allclose(batch.old_mean_logp[batch.mask], before.mean(-1), atol=1e-5)
    assert torch.allclose(part.mean_logp[batch.mask], now.mean(-1), atol=1e-5)
    change = (now - before).mean(-1)
    index = torch.arange(len(tokens))
    rows = batch.mask.nonzero()[:, 0]
    ends = torch.cat([rows[1:] != rows[:-1], torch.tensor([True])])
    target = batch.advantage[rows] + torch.where(ends, 0.0, change.roll(-1))
    expected = ((now - before)[index, tokens] - target).square().mean()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_truncated_sampling_is_refused() -> None:
    for name in ("rover", "tbrm"):
        with pytest.raises(ConfigError, match="top_p"):
            TinyWorld({"name": name}, {"top_p": 0.9})
