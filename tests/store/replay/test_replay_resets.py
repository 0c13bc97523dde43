"""What follows a true end in the replay: the first observation after the reset, wherever it happens to be stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.config.load import load_config
from distrl.runtime.plan.make import make_plan
from distrl.store.replay.buffer import Replay
from tests.runtime.off_policy_config import dqn_config

SPACE = Box(-9.0, 999.0, (1,), np.float32)
LENGTH = 3


def places(start: int, steps: int) -> dict[str, Any]:
    """Steps of an environment whose episodes show 10 e, 10 e + 1, 10 e + 2 and end truly, or by time in odd e."""
    number = np.arange(start, start + steps)
    episode, t = np.divmod(number, LENGTH)
    ends, odd = t == LENGTH - 1, episode % 2 == 1
    following = (number + 1) // LENGTH * 10.0 + (number + 1) % LENGTH
    cut = np.flatnonzero(ends & odd)

    def column(values: Any, dtype: Any) -> np.ndarray:
        return np.asarray(values, dtype)[:, None]

    return {
        "obs": column(10.0 * episode + t, np.float32)[..., None],
        "action": np.zeros((steps, 1, 1), np.float32),
        "reward": column(np.ones(steps), np.float32),
        "terminated": column(ends & ~odd, bool),
        "truncated": column(ends & odd, bool),
        "first": column(t == 0, bool),
        "last_obs": np.array([[following[-1]]], np.float32),
        "final_obs": (10.0 * episode[cut] + LENGTH)[:, None].astype(np.float32),
        "final_index": np.stack([cut, 0 * cut], 1),
    }


@pytest.mark.parametrize("n_step", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_a_true_end_is_followed_by_the_reset(steps: int, n_step: int) -> None:
    """At every fragment edge, also while the next fragment is not there yet, and when the ring has come round."""
    replay = Replay(SPACE, SPACE, 40, 1, n_step)
    for sequence in range(60 // steps):
        replay.insert(Columns(**places(sequence * steps, steps)), 0, sequence)
        drawn = replay.sample(64, np.random.default_rng(sequence), 0.9)
        over = drawn.discount == 0
        episode = drawn.obs[over, 0] // 10
        np.testing.assert_array_equal(drawn.next_obs[over, 0], 10 * (episode + 1))
        going_on = drawn.next_obs[~over, 0] - drawn.obs[~over, 0]
        assert ((going_on >= 1) & (going_on <= n_step)).all()  # true final observations of cut episodes included
    assert over.any()


def test_learners_that_go_on_refuse_back_ends_that_burn_the_reset() -> None:
    run = dqn_config(env={"id": "Pendulum-v1", "backend": "envpool"}, deterministic=False)
    keys = ("rollout_steps", "batch_size", "learning_starts")
    run["algorithm"] = {"name": "aro_ddpg", **{key: run["algorithm"][key] for key in keys}}
    with pytest.raises(ConfigError, match="bootstraps from the first observation after a true end"):
        make_plan(load_config(run))
