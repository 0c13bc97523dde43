"""Masks at the edges of fragments: what was allowed after a fragment's last step, and after an episode was cut off.

`MaskedEnv` shows the time t first and allows action t mod 3 alone, so each mask can be read off its observation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distrl.base.columns import Columns
from distrl.base.errors import EnvError
from distrl.config.load import load_config
from distrl.control.algorithms.on_policy.transition_ring import transitions
from distrl.control.envs.make_vector import make_vector
from distrl.experience.fragment import CollectRequest, Unit
from distrl.experience.rollout import cat_rollouts, check_rollout, slice_envs
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from tests.control.envs.backends.test_loop import vector_of
from tests.helpers import merged
from tests.runtime.off_policy_config import dqn_config
from tests.support import toy_envs

LENGTH = 5


def one_hot(obs: Any) -> np.ndarray:
    """The mask that belongs to observations (..., 3)."""
    return np.arange(3) == np.asarray(obs)[..., :1] % 3


def masked_config(algorithm: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, Any]:
    env = {"id": "tests.support.toy_envs:MaskedEnv", "kwargs": {"length": LENGTH, **kwargs}}
    return merged(dqn_config(), {"env": env, "algorithm": algorithm or {}})


def collected(updates: int, learner: Any, plan: Any) -> list[list[Columns]]:
    """Rollouts of some updates, each given to the learner."""
    sampler, weights, made = plan.build_sampler(0, reuse_buffers=False), learner.weights(0), []
    for update in range(updates):
        requests = [CollectRequest(Unit(update, stream), update, assign=update == 0) for stream in range(4)]
        batch = [data for _, data in sampler.collect(requests, weights)]
        made.append([check_rollout(data.rollout) for data in batch])
        units = tuple(request.unit for request in requests)
        weights = learner.update(batch, Progress(update, 16 * update, diagnose=False, units=units))[1]
    return made


@pytest.mark.parametrize("method", [False, True], ids=["info", "method"])
def test_rollouts_tell_what_was_allowed_at_their_edges(method: bool) -> None:
    plan = make_plan(load_config(masked_config(method=method)))
    rollouts = [rollout for batch in collected(5, plan.build_learner(), plan) for rollout in batch]
    assert sum(len(rollout.final_index) for rollout in rollouts) == 4 * (5 * 4 // LENGTH)
    for rollout in rollouts:
        np.testing.assert_array_equal(rollout.mask, one_hot(rollout.obs))
        np.testing.assert_array_equal(rollout.last_mask, one_hot(rollout.last_obs))
        np.testing.assert_array_equal(rollout.final_mask, one_hot(rollout.final_obs))
        assert (rollout.final_obs[:, 0] == LENGTH).all()
    joined = cat_rollouts([rollouts[8], rollouts[12]])
    apart = slice_envs(check_rollout(joined), 1, 2)
    for name in ("last_mask", "final_mask"):
        np.testing.assert_array_equal(apart[name], rollouts[12][name])


def test_an_end_without_a_mask_allows_everything() -> None:
    """No action follows the last step of an episode, so an environment may give no mask there, or an empty one."""
    silent = vector_of(toy_envs.MaskedEnv, length=3, forget_after=3)
    empty = vector_of(EmptyAtTheEnd, length=3)
    for vector in (silent, empty):
        vector.reset()
        for _ in range(3):
            step = vector.step(vector.mask.argmax(1))
        assert [mask.tolist() for mask in step.final_masks] == [[True] * 3] * 2
        assert vector.mask.tolist() == [[True, False, False]] * 2


class EmptyAtTheEnd(toy_envs.MaskedEnv):
    """Allows nothing any more when its time is up."""

    def allowed(self) -> np.ndarray:
        return super().allowed() & (self.t < self.length)


def test_a_wrong_mask_at_the_end_is_told() -> None:
    class Wrong(toy_envs.MaskedEnv):
        def allowed(self) -> np.ndarray:
            return super().allowed() if self.t < self.length else np.ones(7, bool)

    vector = vector_of(Wrong, length=1)
    vector.reset()
    with pytest.raises(EnvError, match=r"shape \(7,\), expected \(3,\)"):
        vector.step(vector.mask.argmax(1))


@pytest.mark.parametrize(
    "switches", [{}, {"next_action": "double"}, {"next_action": "soft"}, {"n_step": 3}, {"prioritized": True}], ids=str
)
def test_targets_never_take_a_forbidden_action(switches: dict[str, Any]) -> None:
    """Of every transition that goes on, fragment edges and truncations included, one action is allowed afterwards."""
    plan = make_plan(load_config(masked_config(switches)))
    learner = plan.build_learner()
    collected(6, learner, plan)
    drawn = learner.replay.sample(256, np.random.default_rng(0), 0.9)
    assert (drawn.discount > 0).all()
    np.testing.assert_array_equal(drawn.next_mask, one_hot(drawn.next_obs))
    assert {LENGTH, 4} <= {*drawn.next_obs[:, 0]}  # the true final observations, and those behind a fragment's edge
    algorithm, batch = learner.algorithm, learner._prepared(drawn)
    with torch.no_grad():
        values, probs = algorithm.td_target(batch, None, algorithm.policy, algorithm.target)
        only = torch.from_numpy(one_hot(drawn.next_obs).argmax(-1))
        expected = algorithm.target.values(batch.next_obs).gather(1, only[:, None]).squeeze(1)
    torch.testing.assert_close((values * probs).sum(-1), batch.reward + batch.discount * expected)


def test_side_replays_know_the_edges_too() -> None:
    plan = make_plan(load_config(masked_config()))
    batches = collected(3, plan.build_learner(), plan)
    rollout = batches[1][0].map(torch.from_numpy)
    rows = transitions(rollout, 0.9)
    assert len(rollout.final_index)
    np.testing.assert_array_equal(rows.next_mask.numpy(), one_hot(rows.next_obs.numpy()))


def test_back_ends_without_masks_give_none() -> None:
    config = load_config(dqn_config())
    env = make_vector(config.env, 2, lambda i, episode: i)
    env.reset()
    step = env.step(np.zeros(2, np.int64))
    assert step.final_masks is None
    env.close()
