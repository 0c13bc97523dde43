"""The learner: normalizers as numpy computes them, states that continue bit for bit, refused batches, warm starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError, NonFiniteError
from distrl.base.pack import pack, unpack
from distrl.config.load import load_config
from distrl.control.learner.learner import ControlLearner
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.moments import Moments
from distrl.experience.rollout import cat_rollouts
from distrl.learning.learner_base import Progress
from distrl.learning.process_group import GroupShards
from distrl.learning.shards import Shards, add_in_order
from distrl.runtime.plan.make import make_plan
from tests.helpers import config, merged

NORMALIZED = {"env": {"id": "Pendulum-v1", "max_episode_steps": 20, "normalize_obs": True, "normalize_reward": True}}
Batches = list[list[FragmentData]]


def run(updates: int, **changes: Any) -> tuple[ControlLearner, Any, Batches, list[Any]]:
    """A few updates by hand: learner, plan, the batches it got, and the weights it gave (version 0 first)."""
    plan = make_plan(load_config(config(**changes)))
    learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
    batches: Batches = []
    published = [learner.weights(0)]
    for update in range(updates):
        requests = [CollectRequest(Unit(update, stream), update, assign=update == 0) for stream in range(4)]
        batches.append([data for _, data in sampler.collect(requests, published[-1])])
        published.append(learner.update(batches[-1], Progress(update, 64 * update))[1])
    return learner, plan, batches, published


def spoiled(fragments: list[FragmentData]) -> list[FragmentData]:
    """The same batch with one NaN among its rewards."""
    reward = fragments[0].rollout.reward.copy()
    reward[3, 0] = np.nan
    bad = FragmentData(fragments[0].rollout.with_(reward=reward), fragments[0].obs_moments, fragments[0].return_moments)
    return [bad, *fragments[1:]]


def test_versions_and_metrics() -> None:
    learner, _, batches, published = run(3)
    assert [weights.version for weights in published] == [0, 1, 2, 3]
    assert len({weights.checksum() for weights in published}) == 4
    report, weights = learner.update(batches[0], Progress(3, 192, diagnose=True))
    assert report.version == weights.version == 4
    assert {"loss/actor", "loss/critic", "loss/grad_norm", "policy/kl", "policy/entropy"} <= report.metrics.keys()
    assert all(np.isfinite(value) for value in report.metrics.values())
    assert set(report.seconds) >= {"prepare", "learn", "publish"}


def test_diagnosing_changes_nothing() -> None:
    changed = []
    for diagnose in (False, True):
        _, plan, batches, _ = run(1)
        learner = plan.build_learner()
        learner.update(batches[0], Progress(0, 0, diagnose=diagnose))
        changed.append(learner.update(batches[0], Progress(1, 64))[1].checksum())
    assert changed[0] == changed[1]


# ---- normalizers -----------------------------------------------------------------------------------------------------


def test_merged_moments_are_those_of_all_fragments_together() -> None:
    learner, plan, _batches, published = run(4, **NORMALIZED)
    sampler = plan.build_sampler(0, reuse_buffers=True)
    raws = []
    for update in range(4):  # the same fragments again, to look at the raw observations in the sampler's buffers
        requests = [CollectRequest(Unit(update, stream), update, assign=update == 0) for stream in range(4)]
        sampler.collect(requests, published[update])
        raws += [buffer.raw.reshape(-1, 3).astype(np.float64) for buffer in map(_copied, sampler._buffers.values())]
    rows = np.concatenate(raws)
    assert len(rows) == 4 * 64
    moments = learner.obs_moments
    assert moments is not None
    assert moments.count == pytest.approx(len(rows), abs=1e-3)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments.var, rows.var(0), rtol=1e-4)
    normalizer = learner.algorithm.policy.normalizer
    np.testing.assert_array_equal(normalizer.mean.numpy(), moments.mean)
    np.testing.assert_array_equal(normalizer.var.numpy(), moments.var)


def _copied(buffer: Any) -> Any:
    buffer.raw = buffer.raw.copy()
    return buffer


def test_rewards_are_scaled_by_the_returns_of_all_fragments() -> None:
    learner, _, batches, _ = run(4, **NORMALIZED)
    returns = []
    for stream in range(4):
        reward = np.concatenate([batch[stream].rollout.reward for batch in batches])
        rollouts = [batch[stream].rollout for batch in batches]
        done = np.concatenate([rollout.terminated | rollout.truncated for rollout in rollouts])
        total = np.zeros(1)
        for t in range(len(reward)):
            total = np.where(done[t - 1] if t else False, 0.0, 0.99 * total) + reward[t]
            returns.append(total.copy())
    assert learner.return_moments.var == pytest.approx(np.var(np.concatenate(returns)), rel=1e-4)
    seen: dict[str, torch.Tensor] = {}
    prepare = learner.algorithm.prepare
    learner.algorithm.prepare = lambda rollout: seen.update(reward=rollout.reward) or prepare(rollout)  # type: ignore
    learner.update(batches[0], Progress(4, 256))
    raw = cat_rollouts([fragment.rollout for fragment in batches[0]]).reward
    scale = np.sqrt(learner.return_moments.var + 1e-8)
    np.testing.assert_allclose(seen["reward"].numpy(), raw / scale, rtol=1e-5)


def test_scaled_rewards_are_clipped() -> None:
    learner, _plan, batches, _ = run(1, **merged(NORMALIZED, {"env": {"clip_reward": 0.01}}))
    seen: dict[str, torch.Tensor] = {}
    prepare = learner.algorithm.prepare
    learner.algorithm.prepare = lambda rollout: seen.update(reward=rollout.reward) or prepare(rollout)  # type: ignore
    learner.update(batches[0], Progress(1, 64))
    assert float(seen["reward"].abs().max()) == pytest.approx(0.01)


# ---- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, NORMALIZED, {"model": {"recurrent": "gru", "recurrent_size": 8}}])
def test_a_state_continues_bit_for_bit(changes: dict[str, Any]) -> None:
    learner, plan, batches, published = run(2, **changes)
    other = plan.build_learner()
    other.load_state(unpack(*pack(learner.state())))
    assert other.weights(2).checksum() == published[2].checksum()
    for update in (2, 3):
        progress = Progress(update, 64 * update)
        one, two = learner.update(batches[0], progress)[1], other.update(batches[0], progress)[1]
        assert one.checksum() == two.checksum()


def test_a_state_is_a_copy() -> None:
    learner, plan, batches, published = run(2)
    state = learner.state()
    learner.update(batches[0], Progress(2, 128))
    other = plan.build_learner()
    other.load_state(state)
    assert other.weights(2).checksum() == published[2].checksum()


@pytest.mark.parametrize("changes", [{}, NORMALIZED])
def test_a_refused_batch_leaves_everything_as_it_was(changes: dict[str, Any]) -> None:
    learner, plan, batches, published = run(2, **changes)
    before = learner.weights(2).checksum()
    assert before == published[2].checksum()
    with pytest.raises(NonFiniteError, match="non-finite"):
        learner.update(spoiled(batches[0]), Progress(2, 128))
    assert learner.weights(2).checksum() == before
    untouched = plan.build_learner()
    for update in (0, 1):
        untouched.update(batches[update], Progress(update, 64 * update))
    one, two = (each.update(batches[0], Progress(2, 128))[1] for each in (learner, untouched))
    assert one.checksum() == two.checksum()


def test_a_refused_first_batch_leaves_a_fresh_learner() -> None:
    _, plan, batches, _ = run(1, **NORMALIZED)
    learner = plan.build_learner()
    fresh = learner.weights(0).checksum()
    with pytest.raises(NonFiniteError):
        learner.update(spoiled(batches[0]), Progress(0, 0))
    assert learner.weights(0).checksum() == fresh
    assert learner.obs_moments is None


def test_a_warm_start_takes_weights_and_statistics() -> None:
    learner, plan, _batches, published = run(3, **NORMALIZED)
    warm = plan.build_learner()
    warm.warm_start(published[3])
    assert warm.weights(3).checksum() == published[3].checksum()
    assert warm.obs_moments is not None
    assert learner.obs_moments is not None
    np.testing.assert_allclose(warm.obs_moments.var, learner.obs_moments.var, rtol=1e-12)
    assert warm.obs_moments.count == learner.obs_moments.count
    assert warm.return_moments.count == Moments.prior().count
    assert warm.state()["algorithm"]["optimizer"] == {}


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("staged", ["the batch", "another"])
def test_a_staged_batch_changes_nothing(staged: str) -> None:
    learner, plan, batches, _ = run(2, **NORMALIZED)
    other = plan.build_learner()
    other.load_state(learner.state())
    units = tuple(Unit(2, stream) for stream in range(4))
    if staged == "the batch":
        other.stage(units, batches[0])
    else:
        other.stage(tuple(Unit(9, stream) for stream in range(4)), batches[1])
    progress = Progress(2, 128, units=units)
    assert other.update(batches[0], progress)[1].checksum() == learner.update(batches[0], progress)[1].checksum()


def test_arrays_of_a_fragment_are_never_written() -> None:
    learner, _, batches, _ = run(1, **NORMALIZED)
    for fragment in batches[0]:
        fragment.rollout.map(lambda leaf: leaf.setflags(write=False))
    _, weights = learner.update(batches[0], Progress(1, 64))
    assert weights.version == 2


# ---- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_cover_every_row_once(count: int) -> None:
    parts = Shards(count).split(torch.arange(20))
    assert torch.cat(parts).tolist() == list(range(20))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("count", "world"), [(2, 2), (4, 2), (6, 3)])
def test_processes_share_the_same_shards(count: int, world: int) -> None:
    whole = Shards(count).split(torch.arange(25))
    spread = [part for rank in range(world) for part in GroupShards(count, rank, world).split(torch.arange(25))]
    assert [part.tolist() for part in spread] == [part.tolist() for part in whole]


def test_shards_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"learner.shards is 3, which 2 learner.processes"):
        GroupShards(3, 0, 2)


def test_gradients_are_added_in_order() -> None:
    """In float32 these four give 1 from left to right, and 0 backwards or as a tree."""
    parts = [torch.tensor([value]) for value in (1e8, 1.0, -1e8, 1.0)]
    assert add_in_order(parts).item() == 1.0
    assert add_in_order(parts[::-1]).item() == 0.0


def test_the_loss_over_shards_is_the_loss_of_the_whole() -> None:
    """Joined within rounding: denominators and advantage statistics are those of the whole minibatch."""
    _, plan, batches, _ = run(1)
    one, many = (plan.build_learner(shards=Shards(count)) for count in (1, 5))
    for learner in (one, many):
        learner.update(batches[0], Progress(0, 0))
    difference = (one.algorithm.flat.data - many.algorithm.flat.data).abs().max()
    assert 0 < float(difference) < 1e-5
