"""Objectives of whole answers: numbers by hand, exact minimizers on bandits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.language.losses import sequence as r
from distrl.language.losses.token import token_ppo
from tests.language.losses.test_token import fit
from tests.support.llm_cases import CASES, gradient, ids, normal_like, one_group, rows, token_masks

TWO = torch.ones(1, 2, dtype=torch.bool)
BOTH = torch.ones(2, 1, dtype=torch.bool)
UNIFORM = rows(0.5, 0.5).log()


def test_gspo_by_hand():
    old = rows(-1.0, -1.0)[None]
    logp = old + rows(math.log(2), 0.0)[None]
    assert r.gspo(logp, old, rows(-1.0), TWO).item() == pytest.approx(1.41421, abs=5e-6)
    assert r.gspo(logp, old, rows(1.0), TWO).item() == pytest.approx(-1.0004)
    (slope,) = gradient(lambda x: r.gspo(x, old, rows(-1.0), TWO), logp)
    assert slope[0].tolist() == pytest.approx([math.sqrt(2) / 2] * 2)
    assert r.sequence_ppo(logp, old, rows(-1.0), TWO).item() == pytest.approx(2.0)


@CASES
@given(token_masks(), st.integers(0, 1000))
def test_gspo_on_policy_has_grpos_gradient(mask, seed):
    logp = normal_like(mask, seed)
    advantage = torch.randn(len(mask), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (expected,) = gradient(lambda x: token_ppo(x, logp, advantage, mask).sum(1) / mask.sum(1).clamp(min=1), logp)
    (found,) = gradient(lambda x: r.gspo(x, logp, advantage, mask), logp)
    torch.testing.assert_close(found, expected)


@CASES
@given(token_masks(), st.integers(0, 1000))
def test_rows_without_tokens_are_zero(mask, seed):
    logp, old, ref = (normal_like(mask, seed + k) for k in range(3))
    row = torch.arange(len(mask), dtype=torch.float64) + 1.0
    losses = [
        r.gspo(logp, old, row, mask),
        r.sequence_ppo(logp, old, row, mask),
        r.tbrm(logp, ref, row, row, mask),
        r.flowrl(logp, old, ref, row, row, mask, old),
        r.a_star_po(logp, ref, row, row, mask),
    ]
    for loss in losses:
        assert torch.isfinite(loss).all()
        assert torch.all(loss[~mask.any(1)] == 0)


# TBRM


def test_tbrm_has_two_forms():
    generator = torch.Generator().manual_seed(1)
    z, ref = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    token, beta, reward = torch.tensor([3, 0, 5, 2]), 0.3, 0.8
    logp, ref_logp = (torch.log_softmax(x, -1)[torch.arange(4), token][None] for x in (z, ref))
    mask = torch.ones(1, 4, dtype=torch.bool)
    first = r.tbrm(logp, ref_logp, rows(reward), r.raw_start_value(z[:1]), mask, beta=beta)
    second = (z[0, token[0]] + logp[0, 1:].sum() - reward / beta - ref_logp.sum()) ** 2
    assert first.item() == pytest.approx(second.item(), abs=1e-9)
    # the sum of the soft Bellman residuals, Q = beta z and V = beta logsumexp z
    q, v = beta * z[torch.arange(4), token], beta * torch.logsumexp(z, -1)
    v_next = torch.cat([v[1:], torch.zeros(1, dtype=torch.float64)])
    r_h = torch.tensor([0, 0, 0, reward], dtype=torch.float64)
    residual = (q - r_h - beta * ref_logp[0] - v_next).sum()
    assert (beta**2 * first).item() == pytest.approx(residual.item() ** 2, abs=1e-9)


def test_tbrm_on_a_bandit():
    reward = rows(1.0, 0.0)

    def loss(z):
        logp = torch.log_softmax(z, -1)[:, None]
        return r.tbrm(logp, UNIFORM[:, None], reward, r.raw_start_value(z.expand(2, 2)), BOTH, beta=1.0).sum()

    best = rows(1 + math.log(0.5), math.log(0.5))
    assert loss(best).item() == pytest.approx(0.0, abs=1e-12)
    assert torch.softmax(best, -1).tolist() == pytest.approx([0.731, 0.269], abs=5e-4)
    assert torch.logsumexp(best, -1).item() == pytest.approx(0.62011, abs=5e-6)
    assert fit(loss, rows(0.3, -0.2)).exp().tolist() == pytest.approx([0.7310586, 0.2689414], abs=1e-5)


# FlowRL


def test_flowrl_on_a_bandit():
    advantage = rows(1.0, -1.0)
    log_z = math.log(0.5 * math.e + 0.5 / math.e)
    assert log_z == pytest.approx(0.43378, abs=5e-6)
    best = torch.log_softmax(rows(1.0, -1.0), -1)
    assert best.exp().tolist() == pytest.approx([0.8808, 0.1192], abs=5e-5)
    found = r.flowrl(best[:, None], UNIFORM[:, None], UNIFORM[:, None], advantage, rows(log_z, log_z), BOTH, beta=1.0)
    assert found.tolist() == pytest.approx([0, 0], abs=1e-12)


def test_flowrl_at_rest():
    zero = rows(0, 0)

    def loss(logp, z):
        return r.flowrl(logp, UNIFORM[:, None], UNIFORM[:, None], zero, z, BOTH)

    assert loss(UNIFORM[:, None], zero).tolist() == [0, 0]
    for slope in gradient(loss, UNIFORM[:, None], zero):
        assert torch.all(slope == 0)


def test_flowrl_weights_and_gradient():
    old = rows(-1.0, -1.0)[None]
    logp, ref = old + 0.5, old - 0.3  # product of ratios e, clipped to 1.28
    gap = 0.2 + 0.8 - 15 * 0.1

    def loss(x, behavior=None, **options):
        return r.flowrl(x, old, ref, rows(0.1), rows(0.2), TWO, behavior, **options)

    assert loss(logp).item() == pytest.approx(1.28 * gap**2)
    assert loss(logp, clip_low=None).item() == pytest.approx(gap**2)
    assert loss(logp, old - 1.0).item() == pytest.approx(2 * 1.28 * gap**2)
    assert loss(old - 3.0, clip_low=0.2).item() == pytest.approx(0.8 * (0.2 - 2.7 - 1.5) ** 2)
    assert gradient(loss, logp)[0][0].tolist() == pytest.approx([2 * 1.28 * gap / 2] * 2)


# A*-PO


def test_soft_value():
    reward = rows(1, 0, 0, 0)
    assert r.soft_value(reward, one_group(4)).item() == pytest.approx(0.47723, abs=5e-6)
    assert r.soft_value(reward, one_group(4), beta=0.0).item() == 0.25
    assert r.soft_value(reward, one_group(4), beta=math.inf).item() == 0.25
    assert r.soft_value(reward, one_group(4), beta=1e-4).item() == pytest.approx(1.0, abs=1e-3)
    assert r.soft_value(reward * 0, one_group(4)).item() == 0.0
    closed = 0.5 * math.log(1 - 0.25 + 0.25 * math.exp(2))
    assert r.soft_value(reward, one_group(4)).item() == pytest.approx(closed)
    assert r.soft_value(rows(1, 0, 1), ids(4, 4, 2), beta=1.0).tolist() == pytest.approx([1.0, 0.62011], abs=5e-6)


def test_a_star_po_on_a_bandit():
    best = torch.log_softmax(rows(1.0, 0.0), -1)[:, None]
    value = rows(0.62011450695827751, 0.62011450695827751)

    def loss(x, beta=1.0):
        return r.a_star_po(x, UNIFORM[:, None], rows(1.0, 0.0), value, BOTH, beta=beta)

    assert loss(best).tolist() == pytest.approx([0, 0], abs=1e-12)
    (slope,) = gradient(lambda x: loss(x, beta=1e-3), UNIFORM[:, None])
    assert slope[:, 0].tolist() == pytest.approx([-2e-3 * (1 - 0.620114507), 2e-3 * 0.620114507])
