"""SPO: the objective's table, and the pull that PPO lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.config.algorithm import check_algorithm
from distrl.config.load import load_config
from tests.learning.rollouts import make_algorithm, make_rollout, update, whole_gradient

#: ratio, advantage, objective, its slope in the ratio; epsilon is 0.2 (method notes, entry 44)
TABLE = [(1.1, 1.0, 1.075, 0.5), (1.2, 1.0, 1.1, 0.0), (1.3, 1.0, 1.075, -0.5), (0.8, -1.0, -0.9, 0.0)]


@pytest.mark.parametrize(("ratio", "advantage", "objective", "slope"), TABLE)
def test_the_table(ratio: float, advantage: float, objective: float, slope: float):
    algorithm = make_algorithm("spo_simple", clip=0.2)
    x = torch.tensor(ratio, requires_grad=True)
    found = algorithm.actor_objective(Columns(advantage=torch.tensor(advantage)))(x)
    found.backward()
    assert found.item() == pytest.approx(objective, abs=1e-6)
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(slope, abs=1e-5)


def test_the_first_gradient_is_that_of_ppo():
    spo, ppo = make_algorithm("spo_simple"), make_algorithm("ppo")
    rollout = make_rollout(spo, steps=16)
    torch.testing.assert_close(whole_gradient(spo, rollout), whole_gradient(ppo, rollout), rtol=1e-4, atol=1e-6)


def test_many_epochs_leave_its_ratios_nearer_to_one_than_those_of_ppo():
    options: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 60, "minibatches": 1, "hidden": (64, 64)}
    farthest = {}
    for name in ("spo_simple", "ppo"):
        algorithm = make_algorithm(name, **options)
        rollout = make_rollout(algorithm, steps=32)
        update(algorithm, rollout)
        farthest[name] = algorithm.diagnose(rollout)["policy/max_ratio"]
    assert farthest["spo_simple"] < 1.4 < farthest["ppo"]


def test_options_that_have_no_meaning_are_refused():
    source = {"name": "x", "env": {"id": "CartPole-v1"}, "algorithm": {"name": "spo_simple", "dual_clip": 3.0}}
    config = load_config({**source, "stop": {"updates": 1}})
    cls = type(make_algorithm("spo_simple"))
    with pytest.raises(ConfigError, match="dual_clip"):
        check_algorithm(config, cls.Config)
