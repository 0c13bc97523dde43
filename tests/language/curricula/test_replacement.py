"""Answers that replace others of a batch."""

from __future__ import annotations

import pytest
import torch

from distrl.base.columns import Columns
from distrl.language.advantages.token import virtual_temperature
from distrl.language.curricula import replacement as r
from distrl.language.losses.token import token_ppo
from tests.support.llm_cases import gradient, ids, rows


def batch(count: int, start: float) -> Columns:
    return Columns(
        advantage=torch.full((count,), start), token=torch.full((count, 3), int(start)), group=torch.arange(count)
    )


def test_replacement():
    assert (r.replacement_count(0.5, 0.5), r.replacement_count(0.6, 0.5)) == (60, 30)
    assert virtual_temperature(0.5, 0.5) == 1.2
    assert virtual_temperature(0.51, 0.5) == 0.8
    chosen = r.select_regenerated(rows(0.9, -0.5, 0.05, 0.3, 0.7), 2)
    assert chosen.tolist() == [0, 3]
    mixed = r.replace_rows(batch(4, -2.0), batch(5, 7.0).with_(extra=torch.zeros(5)), chosen, ids(3, 1, 0))
    assert mixed.advantage.tolist() == [-2, 1, -2, 1]
    assert mixed.token[:, 0].tolist() == [-2, 7, -2, 7]
    assert mixed.group.tolist() == [0, 3, 2, 0]
    before = batch(4, -2.0)
    assert r.replace_rows(before, batch(5, 7.0), chosen[:0], ids(3, 1)) is before


@pytest.mark.parametrize(("temperature", "change"), [(1.2, 1.5e-5), (0.8, -1.6e-5), (1.0, 0.0)])
def test_hot_right_answers_raise_the_entropy(temperature, change):
    """Expected step on the logits with two right answers drawn at a temperature and advantage 1: pi^T - pi."""
    logits = rows(0.9, 0.1).log()
    drawn = torch.softmax(logits / temperature, -1)
    mask = torch.ones(2, 1, dtype=torch.bool)

    def loss(z):
        logp = torch.log_softmax(z, -1)[:, None]
        return drawn * token_ppo(logp, logp.detach(), rows(1, 1), mask)[:, 0]

    step = -gradient(loss, logits)[0]
    torch.testing.assert_close(step, drawn - torch.softmax(logits, -1))

    def entropy(z):
        return -(torch.softmax(z, -1) * torch.log_softmax(z, -1)).sum().item()

    assert entropy(logits + 1e-3 * step) - entropy(logits) == pytest.approx(change, abs=1e-6)
