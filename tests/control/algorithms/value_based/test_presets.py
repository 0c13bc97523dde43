"""Presets are DQN with other defaults; the joint preset learns how reward channels go together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.registry import register
from tests.support.q_learners import make_batch, make_q

FAMILY = {
    "c51": "categorical",
    "qr_dqn": "quantile",
    "iqn": "iqn",
    "fqf": "fqf",
    "md3qn": "joint",
    "rainbow": "categorical",
}


@pytest.mark.parametrize("name", FAMILY)
def test_a_preset_is_dqn_with_other_defaults(name: str):
    preset = register.get("algorithm", name)
    config = preset.Config(name=name)
    assert config.head.name == FAMILY[name]
    assert issubclass(preset, register.get("algorithm", "dqn"))
    assert preset.Config(name=name, head={"size": 5}).head.size == 5
    assert preset.Config(name=name, head="quantile").head.name == "quantile"
    assert preset.Config.model_validate(config.model_dump(mode="json")) == config


def test_rainbow_has_everything_on():
    config = register.get("algorithm", "rainbow").Config(name="rainbow")
    assert (config.next_action, config.dueling, config.noisy, config.prioritized) == ("double", True, True, True)
    assert (config.n_step, config.epsilon, config.learning_rate, config.adam_eps) == (3, 0.0, 6.25e-5, 1.5e-4)
    assert config.priority_beta.start == 0.4


@pytest.mark.parametrize(("second", "expected"), [(-1.0, -1.0), (1.0, 1.0)])
def test_md3qn_learns_the_correlation_of_two_channels(second: float, expected: float):
    """Entry 14's effect check: r = (x, -x) or (x, x), x = -1 or 1; correlation -1 or 1 within .1."""
    algorithm = make_q("md3qn", action=spaces.Discrete(2), hidden=(32,), learning_rate=5e-3, head={"size": 16})
    rng = np.random.default_rng(0)
    for _ in range(250):
        x = rng.choice([-1.0, 1.0], 64).astype(np.float32)
        channels = torch.from_numpy(np.stack([x, second * x], -1))
        batch = make_batch(64, obs=torch.zeros(64, 3), discount=torch.zeros(64), reward_channels=channels)
        batch = batch.with_(action=batch.action % 2, weight=torch.ones(64))
        algorithm.update(batch, rng)
    vectors = algorithm.distribution.vectors(algorithm.policy.returns(torch.zeros(1, 3)))[0, 0].detach().numpy()
    assert np.corrcoef(vectors.T)[0, 1] == pytest.approx(expected, abs=0.1)
