"""Objectives of tokens: values and gradients by hand, limits that make them equal, nothing read off the mask."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.chain.aggregation import aggregate, seq_mean_token_mean
from distrl.language.losses import token as t
from distrl.language.losses.group import consistency_weight
from distrl.language.losses.sequence import gspo
from tests.support.llm_cases import CASES, gradient, normal_like, rows, token_masks

ONE = torch.ones(1, 1, dtype=torch.bool)


def token(x: float) -> torch.Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


def value_and_slope(loss, log_ratio: float, advantage: float, **options) -> tuple[float, float]:
    """Of one token with this log-ratio, with respect to its log-probability."""
    logp, old = token(-1.0), token(-1.0 - log_ratio)

    def one(x):
        return loss(x, old, rows(advantage), ONE, **options)

    return one(logp).item(), gradient(one, logp)[0].item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "options", "value", "slope"),
    [
        (1.25, 1.0, {"clip_high": 0.28}, -1.25, -1.25),  # alive
        (1.25, 1.0, {}, -1.2, 0.0),  # dead
        (0.75, -1.0, {}, 0.8, 0.0),
        (0.75, 1.0, {}, -0.75, -0.75),
        (1.25, -1.0, {}, 1.25, 1.25),
        (5.0, -1.0, {"dual_clip": 3.0}, 3.0, 0.0),
        (2.0, -1.0, {"dual_clip": 3.0}, 2.0, 2.0),
        (5.0, 1.0, {"dual_clip": 3.0}, -1.2, 0.0),
    ],
)
def test_token_ppo(ratio, advantage, options, value, slope):
    found = value_and_slope(t.token_ppo, math.log(ratio), advantage, **options)
    assert found == pytest.approx((value, slope))


def test_cispo_never_loses_the_gradient():
    assert value_and_slope(t.cispo, math.log(10), 1.0, clip_high=1.0)[1] == pytest.approx(-2)
    assert value_and_slope(t.token_ppo, math.log(10), 1.0)[1] == 0
    assert value_and_slope(t.cispo, math.log(0.1), 1.0)[1] == pytest.approx(-0.1)
    assert value_and_slope(t.cispo, math.log(0.1), 1.0, clip_low=0.2)[1] == pytest.approx(-0.8)


@pytest.mark.parametrize(
    ("options", "slope"), [({"cap": 2.0, "mode": "truncate"}, -2), ({"cap": 2.0}, 0), ({"cap": math.inf}, -3), ({}, -3)]
)
def test_decoupled_ppo(options, slope):
    logp = token(-1.0)
    behavior = token(-1.0 - math.log(3))
    (found,) = gradient(lambda x: t.decoupled_ppo(x, logp, behavior, rows(1.0), ONE, **options), logp)
    assert found.item() == pytest.approx(slope)
    (plain,) = gradient(lambda x: t.token_ppo(x, behavior, rows(1.0), ONE), logp)
    assert plain.item() == 0
    with pytest.raises(ConfigError, match="drop"):
        t.decoupled_ppo(logp, logp, behavior, rows(1.0), ONE, mode="drop")


def test_proximal_by_versions():
    assert t.proximal_by_versions(token(-1.0), token(-3.0), 0.75).item() == -1.5


def test_stable_reinforce_cuts_before_the_exponential():
    assert value_and_slope(t.stable_reinforce, 20.0, -1.0) == pytest.approx((1000, 0))
    value, slope = value_and_slope(t.token_ppo, 20.0, -1.0)
    assert value == pytest.approx(4.85e8, rel=1e-3)
    assert slope == pytest.approx(value)
    assert value_and_slope(t.stable_reinforce, 0.1, -1.0) == value_and_slope(t.token_ppo, 0.1, -1.0)


@CASES
@given(token_masks(), st.integers(0, 1000))
def test_on_policy_all_have_reinforces_gradient(mask, seed):
    logp, advantage = normal_like(mask, seed), normal_like(mask, seed + 1)
    (expected,) = gradient(lambda x: t.token_reinforce(x, advantage, mask), logp)
    for loss in (t.token_ppo, t.cispo, t.stable_reinforce):
        (found,) = gradient(lambda x, loss=loss: loss(x, logp, advantage, mask), logp)
        torch.testing.assert_close(found, expected)
    (found,) = gradient(lambda x: t.decoupled_ppo(x, logp, logp, advantage, mask), logp)
    torch.testing.assert_close(found, expected)


@CASES
@given(token_masks(), st.integers(0, 1000), st.sampled_from([1e-3, 0.1]))
def test_gspo_token_is_gspo_where_the_advantage_is_constant(mask, seed, scale):
    old = normal_like(mask, seed)
    logp = old + normal_like(mask, seed + 1, scale)
    advantage = torch.randn(len(mask), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight = seq_mean_token_mean(mask)

    def tokens(x):
        return aggregate(t.gspo_token(x, old, advantage, mask), weight)

    def whole(x):
        return aggregate(gspo(x, old, advantage, mask), weight.sum(1))

    torch.testing.assert_close(tokens(logp), whole(logp))
    torch.testing.assert_close(gradient(tokens, logp)[0], gradient(whole, logp)[0])


# COPO


def test_consistency_weight():
    group = torch.zeros(4, dtype=torch.int64)
    same, distinct = torch.tensor([7, 7, 7, 7]), torch.tensor([1, 2, 3, 4])
    assert consistency_weight(same, group).tolist() == pytest.approx([0.0474] * 4, abs=5e-5)
    assert consistency_weight(distinct, group).tolist() == pytest.approx([0.7611] * 4, abs=5e-5)
    equal = rows(0, 0, 0, 0)
    assert consistency_weight(distinct, group, equal, forced=True).tolist() == [0] * 4
    sharp = consistency_weight(same, group, steepness=1e6, threshold=-0.1)
    assert sharp.tolist() == [1] * 4  # then the loss is GRPO's


@CASES
@given(token_masks(), st.integers(0, 1000))
def test_copo_blends_two_clipped_losses(mask, seed):
    old = normal_like(mask, seed)
    logp = old + normal_like(mask, seed + 1, 0.3)
    local, shared, weight = torch.rand(3, len(mask), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    options = {"clip_low": 0.2, "clip_high": 0.28}

    def blended(x):
        w = weight[:, None]
        one, other = (t.token_ppo(x, old, a, mask, **options) for a in (local, shared - 0.5))
        return w * one + (1 - w) * other

    def copo(x):
        return t.copo(x, old, local, shared - 0.5, weight, mask)

    torch.testing.assert_close(copo(logp), blended(logp))
    torch.testing.assert_close(gradient(copo, logp)[0], gradient(blended, logp)[0])


# ROVER


def test_rover_begins_as_dr_grpo():
    mask = torch.tensor([[True, True, False]])
    logp, mean_logp = rows(-1.0, -2.0, math.nan)[None], rows(-3.0, -4.0, math.nan)[None]

    def loss(x, rho=1.0):
        return t.rover(x, logp, mean_logp, mean_logp, rows(0.75), mask, rho=rho)

    assert loss(logp)[0].tolist() == pytest.approx([0.75**2, 0.75**2, 0])
    assert gradient(lambda x: loss(x, rho=2.0), logp)[0][0].tolist() == pytest.approx([-3, -3, 0])  # -2 rho r


def test_rover_bootstraps_from_the_next_trainable_token():
    mask = torch.tensor([[True, False, True]])
    old = torch.zeros(1, 3, dtype=torch.float64)
    logp, mean = rows(0.1, math.nan, 0.2)[None], rows(-1.0, math.nan, -0.4)[None]
    found = t.rover(logp, old, mean, old, rows(0.5), mask, rho=2.0, next_q_coef=0.25)
    assert found[0].tolist() == pytest.approx([(0.2 - 0.5 + 0.2) ** 2, 0, (0.4 - 0.5) ** 2])


def fit(loss, logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities at the minimum of a loss of the logits."""
    at = logits.clone().requires_grad_()
    search = torch.optim.LBFGS([at], lr=0.5, max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        search.zero_grad()
        value = loss(at)
        value.backward()
        return value

    search.step(closure)
    return torch.log_softmax(at.detach(), -1)


def test_rover_minimizers():
    both = torch.ones(2, 1, dtype=torch.bool)
    start = rows(0.0, 0.0)
    old = torch.log_softmax(start, -1)
    zero = torch.zeros(2, 1, dtype=torch.float64)

    def loss(logits):
        logp = torch.log_softmax(logits, -1)[:, None]
        return (0.5 * t.rover(logp, old[:, None], zero, zero, rows(0.5, -0.5), both)).sum()

    assert (0.5 * rows(0.5, -0.5).exp()).sum().item() == pytest.approx(1.1276, abs=5e-5)
    best = fit(loss, start)
    assert (best - old).tolist() == pytest.approx([0.3559, -0.5578], abs=1e-4)
    assert best.exp().tolist() == pytest.approx([0.7138, 0.2862], abs=1e-4)

    def sampled(logits):
        return t.rover(torch.log_softmax(logits, -1)[None, :1], old[None, :1], zero[:1], zero[:1], rows(0.5), ONE).sum()

    assert (fit(sampled, start) - old)[0].item() == pytest.approx(0.5, abs=1e-4)


def test_mean_log_prob():
    logits = torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(t.mean_log_prob(logits), torch.log_softmax(logits, -1).mean(-1))


def test_values_of_the_uniform_policy():
    """The theory behind ROVER on a tree of depth 2: root -> good or bad, one success below good."""
    from tests.exact.mdp import backup, policy_evaluation

    move = torch.zeros(3, 2, 3, dtype=torch.float64)
    move[0, 0, 1] = move[0, 1, 2] = 1.0
    reward = torch.zeros(3, 2, dtype=torch.float64)
    reward[1, 0] = 1.0
    uniform = torch.full((3, 2), 0.5, dtype=torch.float64)
    q = backup(move, reward, policy_evaluation(move, reward, uniform, gamma=1.0), gamma=1.0)
    assert q[0].tolist() == pytest.approx([0.5, 0.0])
    assert q[1, 0].item() == pytest.approx(1.0)
