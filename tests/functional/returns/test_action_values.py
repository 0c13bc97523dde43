"""Retrace and Q(lambda) against their definitions, on random ragged batches, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from distrl.functional.returns.action_values import q_lambda, retrace
from distrl.functional.returns.state_values import lambda_returns
from tests.functional.returns.ragged_cases import CASES, SEED, agree, columns, knobs
from tests.support import slow_returns as slow


@CASES
@given(SEED)
def test_retrace(seed):
    batch, (gamma, lam) = slow.Ragged.draw(seed), knobs(seed)
    rng = np.random.default_rng([seed, 2])
    q, next_v = rng.normal(size=(2, *batch.reward.shape))
    c_bar = float(rng.choice([1.0, rng.uniform(0.3, 3.0)]))
    reward, _, _, terminated, truncated = columns(batch)
    found = retrace(
        reward,
        torch.from_numpy(q),
        torch.from_numpy(next_v),
        terminated,
        truncated,
        torch.from_numpy(batch.log_ratio),
        gamma,
        lam,
        c_bar,
    )

    def expected(e: slow.Episode, i: int) -> float:
        beyond = [0.0 if batch.terminated[t, e.env] else float(next_v[t, e.env]) for t in e.rows]
        return slow.retrace(e, i, [float(q[t, e.env]) for t in e.rows], beyond, gamma, lam, c_bar)

    agree(found, batch.by_episode(expected))


@CASES
@given(SEED)
def test_watkins(seed):
    batch, (gamma, lam) = slow.Ragged.draw(seed), knobs(seed)
    reward, _, next_value, terminated, truncated = columns(batch)
    found = q_lambda(reward, next_value, terminated, truncated, gamma, lam, torch.from_numpy(batch.greedy))
    agree(found, batch.by_episode(lambda e, i: slow.watkins(e, i, gamma, lam)))


@CASES
@given(SEED)
def test_peng(seed):
    batch, (gamma, lam) = slow.Ragged.draw(seed), knobs(seed)
    reward, value, next_value, terminated, truncated = columns(batch)
    found = q_lambda(reward, next_value, terminated, truncated, gamma, lam, watkins=False)
    agree(found, batch.by_episode(lambda e, i: slow.lambda_mixture(e, i, gamma, lam)))
    always = torch.ones_like(terminated)
    agree(q_lambda(reward, next_value, terminated, truncated, gamma, lam, always), found.numpy())
    agree(lambda_returns(reward, value, next_value, terminated, truncated, gamma, lam), found.numpy())


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def test_retrace_by_hand():
    # delta = (1 + .9*.4 - .2, 2 - .3) = (1.16, 1.7), c_1 = .5: G = (.2 + 1.16 + .9*.5*1.7, .3 + 1.7)
    no = torch.zeros(2, 1, dtype=torch.bool)
    over = torch.tensor([[False], [True]])
    found = retrace(column(1, 2), column(0.2, 0.3), column(0.4, 9.0), over, no, column(5.0, 0.5).log(), 0.9)
    agree(found, np.array([[2.125], [2.0]]))


def test_on_policy_retrace_with_the_value_of_the_action_taken_is_the_monte_carlo_return():
    no = torch.zeros(3, 1, dtype=torch.bool)
    q = column(0.1, 0.2, 0.3)
    found = retrace(column(1, 1, 1), q, column(0.2, 0.3, 0.5), no, no, torch.zeros(3, 1).double(), 0.9)
    assert found[0].item() == pytest.approx(1 + 0.9 + 0.81 + 0.729 * 0.5, abs=1e-12)


def test_watkins_needs_to_know_what_was_greedy():
    no = torch.zeros(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="watkins=False"):
        q_lambda(column(1.0), column(1.0), no, no, 0.9, 0.5)
