"""Supervised fine-tuning and one-token rollouts."""

from __future__ import annotations

import math

import pytest
import torch

from distrl.language.losses import supervised as s
from tests.support.llm_cases import gradient, ids, rows

LOGITS = rows(0.5, 0.3, 0.2).log()[None, None]
GIVEN, ONE = ids(0)[None], torch.ones(1, 1, dtype=torch.bool)


def test_sft():
    mask = torch.tensor([[True, False]])
    assert s.sft(rows(-2.0, math.nan)[None], mask).tolist() == [[2, 0]]


@pytest.mark.parametrize(("other", "expected"), [(-0.1, 0.27826), (0.0, 0.34657)])
def test_expected_one_token_rollout(other, expected):
    found = s.one_token_rollout_exact(LOGITS, GIVEN, ONE, other=other, temperature=1.0)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_gradient_of_the_expected_rollout():
    (slope,) = gradient(lambda z: s.one_token_rollout_exact(z, GIVEN, ONE, other=0.0, temperature=1.0), LOGITS)
    assert slope[0, 0, 0].item() == pytest.approx(-0.5 * 0.5)


def test_drawn_tokens():
    drawn = ids(0, 0, 1, 2)[None, None]
    found = s.one_token_rollout(LOGITS, GIVEN, drawn, ONE)
    expected = -(2 * math.log(0.5) - 0.1 * (math.log(0.3) + math.log(0.2))) / 4
    assert found.item() == pytest.approx(expected)
    unreachable = s.one_token_rollout(LOGITS, ids(2)[None], ids(0, 1)[None, None], ONE, other=0.0)
    assert unreachable.item() == 0


def test_draws_average_to_the_expectation():
    drawn = s.draw_tokens(LOGITS, 200_000, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn.flatten(), minlength=3) / drawn.numel()
    torch.testing.assert_close(share.double(), torch.softmax(LOGITS[0, 0] / 1.3, -1), atol=5e-3, rtol=0)
    exact = s.one_token_rollout_exact(LOGITS, GIVEN, ONE)
    assert s.one_token_rollout(LOGITS, GIVEN, drawn, ONE).item() == pytest.approx(exact.item(), rel=0.01)


def test_padding_is_not_learned():
    mask = torch.tensor([[True, False]])
    logits = torch.stack([LOGITS[0, 0], torch.full((3,), torch.nan, dtype=torch.float64)])[None]
    found = s.one_token_rollout_exact(logits, ids(0, 0)[None], mask)
    assert found[0, 1] == 0
