"""Policies with memory: a batch with resets inside is the sum of its episodes, and values have the right memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distrl.base.columns import Columns, tree_map
from distrl.control.algorithms.on_policy.base import OnPolicy
from tests.learning.rollouts import RECURRENT, make_algorithm, make_rollout, whole_gradient


def episodes(rollout: Columns) -> list[tuple[int, int, int]]:
    """(environment, first step, step after the last) of every piece of an episode."""
    steps, envs = rollout.first.shape
    pieces = []
    for b in range(envs):
        starts = sorted({0, *torch.nonzero(rollout.first[:, b]).flatten().tolist()})
        pieces += [(b, start, stop) for start, stop in zip(starts, [*starts[1:], steps], strict=True)]
    return pieces


def piece_of(algorithm: OnPolicy, rollout: Columns, b: int, start: int, stop: int) -> Columns:
    """One piece as a batch of its own that begins with the state before it; advantages come along."""
    names = [name for name in rollout if name != "state" and rollout[name].shape[:2] == rollout.reward.shape]
    columns = {name: rollout[name][start:stop, b : b + 1] for name in names}
    fresh = bool(rollout.first[start, b])
    state = algorithm.policy.initial_state(1) if fresh else tree_map(lambda leaf: leaf[b : b + 1], rollout.state)
    return Columns(**columns, state=state).with_(first=torch.zeros(stop - start, 1, dtype=torch.bool))


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
@pytest.mark.parametrize("name", RECURRENT)
def test_the_gradient_is_the_sum_over_separately_unrolled_episodes(name: str, recurrent: str):
    options: dict[str, Any] = {"normalize_advantage": False, "entropy_coef": 0.01}
    algorithm = make_algorithm(name, recurrent=recurrent, **options)
    rollout = with_first_state(make_rollout(algorithm, steps=14, envs=3, seed=2))
    expected_rows = rollout.reward.numel()
    whole = whole_gradient(algorithm, rollout).double()
    with torch.no_grad():
        rows = algorithm.training_rows(algorithm.prepare(rollout))
    pieces = episodes(rollout)
    assert len(pieces) > 4
    total = torch.zeros_like(whole)
    for b, start, stop in pieces:
        piece = piece_of(algorithm, rows, b, start, stop)
        algorithm.gradient(piece, algorithm.loss)
        total += algorithm.flat.grad.double() * (stop - start) / expected_rows
    torch.testing.assert_close(whole, total, rtol=1e-4, atol=1e-6)


def with_first_state(rollout: Columns) -> Columns:
    """The rollout begins inside episodes, with a state that is not zero."""
    generator = torch.Generator().manual_seed(4)
    state = tree_map(lambda leaf: 0.5 * torch.randn(leaf.shape, generator=generator), rollout.state)
    first = rollout.first.clone()
    first[0] = False
    return rollout.with_(state=state, first=first)


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
def test_every_value_is_that_of_its_own_history(recurrent: str):
    """Step by step, with the state carried by hand: V(obs), V(final_obs) at time limits, V(last_obs) at the end."""
    algorithm = make_algorithm("ppo", recurrent=recurrent)
    rollout = with_first_state(make_rollout(algorithm, steps=14, envs=3, seed=2))
    assert len(rollout.final_index) > 1
    with torch.no_grad():
        value, next_value = algorithm.values(rollout)
        finals = {(t, b): i for i, (t, b) in enumerate(rollout.final_index.tolist())}
        for b in range(3):
            state = tree_map(lambda leaf, b=b: leaf[b : b + 1], rollout.state)
            for t in range(14):
                if rollout.first[t, b]:
                    state = algorithm.policy.initial_state(1)
                assert_value(algorithm, rollout.obs[t, b], state, value[t, b])
                _, state = algorithm.policy(rollout.obs[t, b][None], state)
                if (t, b) in finals:
                    assert_value(algorithm, rollout.final_obs[finals[t, b]], state, next_value[t, b])
                elif t == 13 and not rollout.terminated[t, b]:
                    assert_value(algorithm, rollout.last_obs[b], state, next_value[t, b])


def assert_value(algorithm: OnPolicy, obs: Tensor, state: Any, expected: Tensor) -> None:
    assert float(algorithm.model.value(obs[None], state)) == pytest.approx(float(expected), abs=1e-5)


def test_minibatches_are_whole_environments():
    algorithm = make_algorithm("ppo", recurrent="gru", minibatches=2)
    rollout = make_rollout(algorithm, steps=5, envs=4)
    rows = algorithm.training_rows(algorithm.prepare(rollout))
    numbers = torch.arange(4).expand(5, 4)
    seen = []
    for batch in algorithm.minibatches(rows.with_(number=numbers), 2, np.random.default_rng(0)):
        assert batch.reward.shape == (5, 2)
        index = batch.number[0]
        assert torch.equal(batch.state, rows.state[index])
        assert torch.equal(batch.obs, rows.obs[:, index])
        seen += index.tolist()
    assert sorted(seen) == [0, 1, 2, 3]
