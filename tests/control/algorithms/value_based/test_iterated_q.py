"""Iterated Q-network: the chain by hand (entry 34)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.control.algorithms.value_based.iterated_q import shift_chain, sync_chain
from tests.support.q_learners import make_batch, make_q, parameters

LENGTH = 5


def backup(values: torch.Tensor) -> torch.Tensor:
    """One Bellman backup on a chain of LENGTH states whose last step gives 1 (gamma = 1)."""
    return torch.cat((values[1:], torch.ones(1)))


def test_one_window_learns_as_many_backups_as_networks():
    """Exact projection: after K - 1 syncs head k holds k backups of Q_0, and head 5 knows the start's value."""
    online, targets = torch.zeros(LENGTH, LENGTH), torch.zeros(LENGTH, LENGTH)
    for _ in range(LENGTH):
        for k in range(LENGTH):
            online[k] = backup(targets[k])
        sync_chain(online, targets)
    expected = torch.zeros(LENGTH)
    for k in range(LENGTH):
        expected = backup(expected)
        assert torch.equal(online[k], expected)
    assert online[-1][0] == 1.0
    assert online[0][0] == 0.0  # DQN after one window
    before = online.clone()
    shift_chain(online, targets)
    assert torch.equal(targets, before)  # Q'_k <- Q_{k+1}: the window begins one backup further
    assert torch.equal(online[:-1], before[1:])
    assert torch.equal(online[-1], before[-1])


def test_a_chain_of_one_is_dqn():
    one = make_q("iterated_q", iterations=1, target_interval=3, sync_interval=1)
    dqn = make_q("dqn", target_interval=3)
    dqn.numpy_gradient = None
    for name in ("flat", "target_flat"):
        getattr(dqn.modules["policy"], name).data.copy_(getattr(one.modules["chain"], name).data)
    for number in range(7):
        batch = make_batch(16, seed=number)
        for algorithm in (one, dqn):
            algorithm.update(batch, np.random.default_rng(0))
    torch.testing.assert_close(parameters(one), parameters(dqn))


@pytest.mark.parametrize("acting", ["uniform", "last"])
def test_one_of_the_chain_acts(acting: str):
    algorithm = make_q("iterated_q", iterations=3, acting=acting)
    obs = make_batch().obs
    chosen = set()
    for seed in range(12):
        algorithm.set_exploration(np.random.default_rng(seed))
        values = algorithm.policy.values(obs)
        same = [torch.equal(values, network.values(obs)) for network in algorithm.chain]
        assert sum(same) == 1
        chosen.add(same.index(True))
    assert chosen == ({0, 1, 2} if acting == "uniform" else {2})


def test_the_old_name_is_refused_with_the_new_one() -> None:
    with pytest.raises(ConfigError, match="algorithm 'iqn_iterated' is called 'iterated_q' now"):
        register.get("algorithm", "iqn_iterated")
