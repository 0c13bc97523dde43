"""REBEL and DRPO: numbers by hand, gradients, exact minimizers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.advantages.group import rloo
from distrl.language.chain.groups import Groups
from distrl.language.chain.tokens import sequence_mean, sequence_sum
from distrl.language.losses import group as g
from tests.language.losses.test_token import fit
from tests.support.llm_cases import CASES, gradient, ids, normal_like, one_group, rows, token_masks


def test_rebel_by_hand():
    mask, logp = torch.ones(2, 1, dtype=torch.bool), rows(-1.0, -2.0)[:, None]

    def loss(x, eta=1.0):
        return g.rebel(x, logp, rows(1.0, 0.0), one_group(2), mask, eta=eta)

    assert loss(logp).tolist() == [1.0]
    assert gradient(loss, logp)[0][:, 0].tolist() == [-2.0, 2.0]
    # 2 / eta times the gradient of RLOO's loss
    assert rloo(rows(1.0, 0.0), one_group(2)).tolist() == [1.0, -1.0]
    assert gradient(lambda x: loss(x, eta=4.0), logp)[0][:, 0].tolist() == [-0.5, 0.5]


def test_rebel_solves_mirror_descent():
    old, reward, eta = torch.log_softmax(rows(0.5, -0.2, 0.1), -1), rows(1.0, 0.3, -0.5), 0.7

    def loss(logits):
        logp = torch.log_softmax(logits, -1)[:, None]
        return g.rebel(logp, old[:, None], reward, one_group(3), torch.ones(3, 1, dtype=torch.bool), eta=eta).sum()

    best = fit(loss, rows(0.0, 0.0, 0.0))
    torch.testing.assert_close(best.exp(), torch.softmax(old + eta * reward, -1), atol=1e-4, rtol=0)
    gain = (best[0] - old[0]) - (best[2] - old[2])
    assert gain.item() == pytest.approx(eta * 1.5, abs=1e-4)


@CASES
@given(token_masks(), st.integers(0, 1000), st.sampled_from(["all", "adjacent"]))
def test_rebel_against_loops(mask, seed, pairs):
    old = normal_like(mask, seed)
    logp, reward = old + normal_like(mask, seed + 1), torch.arange(len(mask), dtype=torch.float64).sin()
    group = torch.arange(len(mask)) % 2
    change = sequence_sum(logp - old, mask)
    found = g.rebel(logp, old, reward, group, mask, eta=0.5, pairs=pairs)
    for q, name in enumerate(group.unique().tolist()):
        index = torch.nonzero(group == name).squeeze(1).tolist()
        every = [(a, b) for k, a in enumerate(index) for b in index[k + 1 :]]
        chosen = every if pairs == "all" else list(zip(index[::2], index[1::2], strict=False))
        terms = [(2 * (change[a] - change[b]) - (reward[a] - reward[b])).item() ** 2 for a, b in chosen]
        assert found[q].item() == pytest.approx(np.mean(terms) if terms else 0.0)
    with pytest.raises(ConfigError, match="best"):
        g.rebel(logp, old, reward, group, mask, pairs="best")


@pytest.mark.parametrize(("temperature", "weights"), [(0.1, [0.8808, 0.1192]), (1e9, [0.5, 0.5])])
def test_drpo_weights(temperature, weights):
    correct = torch.tensor([True, True, False])
    found = g.positive_weights(ids(20, 40, 10), correct, Groups(one_group(3)), 100, temperature)
    assert found.tolist() == pytest.approx([*weights, 0.0], abs=5e-5)


@CASES
@given(token_masks(), st.integers(0, 1000), st.sampled_from([0.3, 10.0]))
def test_drpo_against_loops(mask, seed, tau):
    logp = normal_like(mask, seed)
    group = torch.arange(len(mask)) % 2
    correct = torch.rand(len(mask), generator=torch.Generator().manual_seed(seed)) < 0.5

    def loss(x):
        return g.drpo(x, correct, group, mask, max_length=8, tau=tau)

    found, score = loss(logp), sequence_mean(logp, mask)
    slope = gradient(loss, logp)[0]
    for q, name in enumerate(group.unique().tolist()):
        inside = (group == name) & mask.any(1)
        right, wrong = score[inside & correct], score[inside & ~correct]
        if not len(right) or not len(wrong):
            assert found[q] == 0
            assert torch.all(slope[group == name] == 0)
            continue
        weight = ((1 - mask.sum(1)[inside & correct] / 8) / 0.1).exp()
        expected = tau * (wrong / tau).exp().mean().log() - (weight * right).sum() / weight.sum()
        assert found[q].item() == pytest.approx(expected.item())
        # coefficients of scores: right answers -1 in all, never positive; wrong ones +1, a softmax
        per_row = sequence_sum(slope, mask)
        assert per_row[inside & correct].sum().item() == pytest.approx(-1)
        assert torch.all(per_row[inside & correct] <= 0)
        torch.testing.assert_close(per_row[inside & ~correct], torch.softmax(wrong / tau, -1))
    assert math.isfinite(found.sum().item())
