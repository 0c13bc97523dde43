"""The vectorized estimators against their definitions, on random ragged batches, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from distrl.functional.returns import state_values as returns
from distrl.functional.returns.state_values import Steps
from tests.functional.returns.ragged_cases import CASES, SEED, agree, columns, knobs
from tests.support import slow_returns as slow


@CASES
@given(SEED)
def test_gae(seed):
    batch, (gamma, lam) = slow.Ragged.draw(seed), knobs(seed)
    advantage, target = returns.gae(columns(batch), gamma, lam)
    expected = batch.by_episode(lambda e, i: slow.gae(e, i, gamma, lam))
    agree(advantage, expected)
    agree(target, expected + batch.value)


@CASES
@given(SEED)
def test_lambda_returns(seed):
    batch, (gamma, lam) = slow.Ragged.draw(seed), knobs(seed)
    found = returns.lambda_returns(columns(batch), gamma, lam)
    agree(found, batch.by_episode(lambda e, i: slow.lambda_mixture(e, i, gamma, lam)))
    agree(found, returns.gae(columns(batch), gamma, lam)[1].numpy())


@CASES
@given(SEED)
def test_lambda_returns_with_lam_1_are_the_discounted_returns(seed):
    batch, (gamma, _) = slow.Ragged.draw(seed), knobs(seed)
    found = returns.lambda_returns(columns(batch), gamma, 1.0)
    agree(found, batch.by_episode(lambda e, i: slow.discounted(e, i, gamma)))


@CASES
@given(SEED)
def test_vtrace(seed):
    batch, (gamma, lam) = slow.Ragged.draw(seed), knobs(seed)
    rho_bar, c_bar, pg_rho_bar = np.random.default_rng([seed, 2]).uniform(0.5, 3.0, size=3).tolist()
    log_ratio = torch.from_numpy(batch.log_ratio)
    found = returns.vtrace(columns(batch), log_ratio, gamma, lam, rho_bar, c_bar, pg_rho_bar)
    agree(found.vs, batch.by_episode(lambda e, i: slow.vtrace_target(e, i, gamma, lam, rho_bar, c_bar)))
    agree(
        found.advantage,
        batch.by_episode(lambda e, i: slow.vtrace_advantage(e, i, gamma, lam, rho_bar, c_bar, pg_rho_bar)),
    )


@CASES
@given(SEED)
def test_on_policy_vtrace_with_lam_1_is_gae_with_lam_1(seed):
    batch, (gamma, _) = slow.Ragged.draw(seed), knobs(seed)
    found = returns.vtrace(columns(batch), torch.zeros(batch.reward.shape, dtype=torch.float64), gamma)
    advantage, target = returns.gae(columns(batch), gamma, 1.0)
    agree(found.advantage, advantage.numpy())
    agree(found.vs, target.numpy())
    agree(found.vs, returns.lambda_returns(columns(batch), gamma, 1.0).numpy())


@CASES
@given(SEED)
def test_reset_steps_change_nothing_for_the_others(seed):
    """A reset step, with any content, after each end: all other steps keep their results."""
    batch, (gamma, lam) = slow.Ragged.draw(seed), knobs(seed)
    rng = np.random.default_rng([seed, 3])
    reward, value, next_value, terminated, truncated = (column[:, :1] for column in columns(batch))
    rest = [reward, value, next_value, terminated, truncated, torch.from_numpy(batch.log_ratio)[:, :1]]
    where = np.flatnonzero((terminated | truncated).numpy()[:-1, 0]) + 1  # after an end, and before something

    def insert(column: torch.Tensor) -> torch.Tensor:
        garbage = np.zeros(len(where), bool) if column.dtype == torch.bool else rng.normal(size=len(where)) * 100
        return torch.from_numpy(np.insert(column.numpy()[:, 0], where, garbage))[:, None]

    extended = [insert(column) for column in rest]
    valid = np.insert(np.ones(len(reward), bool), where, False)
    long, short = Steps(*extended[:5]), Steps(*rest[:5])
    agree(returns.gae(long, gamma, lam)[0][valid], returns.gae(short, gamma, lam)[0].numpy())
    agree(returns.lambda_returns(long, gamma, lam)[valid], returns.lambda_returns(short, gamma, lam).numpy())
    traces = returns.vtrace(long, extended[5], gamma, lam), returns.vtrace(short, rest[5], gamma, lam)
    for found, expected in zip(*traces, strict=True):
        agree(found[valid], expected.numpy())


def test_the_random_batches_hold_every_kind_of_end():
    seen = set()
    for seed in range(300):
        batch = slow.Ragged.draw(seed)
        both = batch.terminated & batch.truncated
        for name, flags in (("term", batch.terminated & ~both), ("trunc", batch.truncated & ~both), ("both", both)):
            seen |= {(name, "last") for _ in range(int(flags[-1].any()))}
            seen |= {(name, "inside") for _ in range(int(flags[:-1].any()))}
        seen |= {("none", "last") for _ in range(int(not (batch.terminated | batch.truncated)[-1].all()))}
    assert len(seen) == 7


@pytest.mark.parametrize("shape", [(3,), (1,)])
def test_gamma_and_lam_may_be_tensors(shape):
    batch = next(b for b in map(slow.Ragged.draw, range(100)) if b.reward.shape[1] == 3 and len(b.reward) > 4)
    gamma, lam = torch.tensor([0.9, 0.5, 1.0][: shape[0]]).double(), torch.tensor([0.3, 0.8, 0.0][: shape[0]]).double()
    found = returns.gae(columns(batch), gamma, lam)[0]
    found_lambda = returns.lambda_returns(columns(batch), gamma, lam)
    for b in range(3):
        g, la = gamma.expand(3)[b].item(), lam.expand(3)[b].item()
        agree(found[:, b], returns.gae(columns(batch), g, la)[0][:, b].numpy())
        agree(found_lambda[:, b], returns.lambda_returns(columns(batch), g, la)[:, b].numpy())
