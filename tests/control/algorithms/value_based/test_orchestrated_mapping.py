"""Orchestrated value mapping: channels and maps against plain DQN (entry 11)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.functional.distributions.mapped_channels import MappedChannels
from distrl.functional.distributions.value_maps import Identity, LogMap
from tests.support.q_learners import make_batch, make_q


@pytest.mark.parametrize("maps", [{"gain_map": "identity", "loss_map": "identity"}, {}, {"loss_map": "identity"}])
def test_values_of_gains_and_losses_are_learned(maps: dict[str, str]):
    """Actions that end the episode with 2 and -3; a discounted next value of gains and losses is composed back."""
    algorithm = make_q(
        "orchestrated_mapping", action=spaces.Discrete(2), hidden=(32,), learning_rate=1e-2, gamma=0.9, map_k=20, **maps
    )
    rng = np.random.default_rng(0)
    for _ in range(300):
        action = torch.from_numpy(rng.integers(0, 2, 32))
        reward = torch.where(action == 0, 2.0, -3.0)
        nothing, ones = torch.zeros(32), torch.ones(32)
        batch = make_batch(32, obs=torch.zeros(32, 3), action=action, reward=reward, discount=nothing, weight=ones)
        algorithm.update(batch, rng)
    values = algorithm.policy.values(torch.zeros(1, 3))[0]
    torch.testing.assert_close(values, torch.tensor([2.0, -3.0]), atol=0.15, rtol=0.05)


def test_the_target_is_formed_in_the_space_of_returns():
    distribution = MappedChannels([LogMap(0.9, k=20), Identity()], (1.0, -1.0), kappa=None)
    params = torch.tensor([[1.5, 0.5]])
    values, probs = distribution.target_atoms(params)
    assert values.shape == (1, 1, 2)
    assert float(probs.sum()) == 1.0
    unmapped = distribution.maps[0].inverse(torch.tensor(1.5))
    torch.testing.assert_close(values[0, 0], torch.stack((unmapped, torch.tensor(0.5))))
    torch.testing.assert_close(distribution.mean(params)[0], unmapped - 0.5)
    # the loss of a target that is the distribution itself is 0; one unit further it is half the squared mapped distance
    torch.testing.assert_close(distribution.loss(params, values, probs), torch.zeros(1), atol=1e-9, rtol=0)
    further = distribution.maps[0].forward(unmapped + 1.0) - 1.5
    shifted = distribution.loss(params, values + torch.tensor([1.0, 0.0]), probs)
    torch.testing.assert_close(shifted[0], 0.5 * further.square())


def test_wrong_uses():
    for wrong in ({"n_step": 3}, {"edges": [2.0, 1.0]}, {"risk": "cvar"}, {"gamma": 1.0}):
        with pytest.raises(ConfigError):
            make_q("orchestrated_mapping", **wrong)
