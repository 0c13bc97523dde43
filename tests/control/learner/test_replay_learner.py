"""The replay learner: what it inserts, how often it learns, what it publishes, refused batches, states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distrl.base.errors import NonFiniteError
from distrl.base.pack import pack, unpack
from distrl.config.load import load_config
from distrl.control.learner.replay_learner import ReplayLearner
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from tests.helpers import merged
from tests.runtime.off_policy_config import dqn_config

#: per-batch draws with priorities, several draws at once without; raw observations behind a normalizer
KINDS: list[dict[str, Any]] = [
    {"algorithm": {"prioritized": True, "n_step": 2, "head": "quantile"}},
    {"env": {"normalize_obs": True, "normalize_reward": True}, "algorithm": {"replay_ratio": 1.5}},
]


def run(updates: int, start: int = 0, learner: Any = None, **changes: Any) -> tuple[Any, list[Any], list[Any]]:
    """A few updates by hand: learner, the batches it got, and what it answered. 16 steps an update."""
    plan = make_plan(load_config(merged(dqn_config(), changes)))
    learner = learner or plan.build_learner()
    sampler = plan.build_sampler(0, reuse_buffers=False)
    weights, batches, answers = learner.weights(0), [], []
    for update in range(updates):
        requests = [CollectRequest(Unit(update, stream), update, assign=update == 0) for stream in range(4)]
        batch = [data for _, data in sampler.collect(requests, weights)]
        batches.append(batch)
        if update >= start:
            answers.append(learner.update(batch, progress(update)))
            weights = answers[-1][1]
    return learner, batches, answers


def progress(update: int, diagnose: bool = False) -> Progress:
    units = tuple(Unit(update, stream) for stream in range(4))
    return Progress(update, 16 * update, diagnose=diagnose, units=units)


def spoiled(fragments: list[FragmentData]) -> list[FragmentData]:
    """The same batch with NaN as its rewards: whatever is drawn of it breaks the update."""
    return [
        FragmentData(fragment.rollout.with_(reward=fragment.rollout.reward * np.nan), *rest(fragment))
        for fragment in fragments
    ]


def rest(fragment: FragmentData) -> tuple[Any, Any]:
    return fragment.obs_moments, fragment.return_moments


@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.5])
def test_gradient_steps_are_counted_exactly(ratio: float) -> None:
    """learning_starts is 32: none in the first two updates, then ratio * 16 each."""
    learner, _, answers = run(6, algorithm={"replay_ratio": ratio})
    assert isinstance(learner, ReplayLearner)
    assert learner.algorithm.gradient_steps == int(ratio * (6 * 16 - 32))
    assert learner.replay.rows.inserted == 96
    assert "loss/critic" not in answers[1][0].metrics
    assert np.isfinite(answers[2][0].metrics["loss/critic"])
    checksums = [weights.checksum() for _, weights in answers]
    assert len(set(checksums[2:])) == 4


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_draws_repeat_and_diagnosing_changes_nothing(kind: dict[str, Any]) -> None:
    _, batches, answers = run(5, **kind)
    second = make_plan(load_config(merged(dqn_config(), kind))).build_learner()
    for update, batch in enumerate(batches):
        report, weights = second.update(batch, progress(update, diagnose=True))
    assert weights.checksum() == answers[-1][1].checksum()
    assert {"policy/value", "replay/transitions", "schedule/epsilon"} <= report.metrics.keys()


def test_the_replay_holds_raw_observations_and_draws_are_normalized() -> None:
    learner, batches, _ = run(4, env={"normalize_obs": True})
    rows = np.concatenate([fragment.rollout.obs.reshape(-1, 4) for batch in batches for fragment in batch])
    drawn = learner.replay.sample(64, np.random.default_rng(0), 0.9)
    assert {tuple(row) for row in drawn.obs} <= {tuple(row) for row in rows}
    prepared = learner._prepared(drawn)
    torch.testing.assert_close(prepared.obs, learner.algorithm.policy.normalize(torch.from_numpy(drawn.obs)))
    moments = learner.obs_moments
    assert moments.count == pytest.approx(64, abs=1e-3)
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-4)


def test_rewards_are_scaled_when_they_are_drawn() -> None:
    learner, _, _ = run(4, env={"normalize_reward": True, "clip_reward": 0.5})
    drawn = learner.replay.sample(8, np.random.default_rng(0), 0.9)
    expected = np.clip(drawn.reward / np.sqrt(learner.return_moments.var + 1e-8), -0.5, 0.5)
    np.testing.assert_allclose(learner._prepared(drawn).reward.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_state_with_files_continues_bit_for_bit(kind: dict[str, Any], tmp_path: Path) -> None:
    first, batches, _ = run(4, **kind)
    skeleton, arrays = pack(first.state())
    first.save_files(tmp_path / "replay")
    second = make_plan(load_config(merged(dqn_config(), kind))).build_learner()
    second.load_state(unpack(skeleton, arrays))
    second.load_files(tmp_path / "replay")
    for update in (4, 5):
        one, other = (learner.update(batches[update - 4], progress(update))[1] for learner in (first, second))
        assert one.checksum() == other.checksum()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_refused_batch_is_inserted_once(kind: dict[str, Any]) -> None:
    learner, batches, _ = run(3, **kind)
    before, taken = learner.algorithm.state()["modules"]["policy"], learner.limiter.taken
    moments = pack(learner.state()["obs_moments"])[1]
    for _ in range(2):
        with pytest.raises(NonFiniteError):
            learner.update(spoiled(batches[0]), progress(3))
        assert learner.replay.rows.inserted == 64
        assert learner.limiter.taken == taken
        refused = pack(learner.algorithm.state()["modules"]["policy"])[1]
        assert all(np.array_equal(refused[name], value) for name, value in pack(before)[1].items())
        after = pack(learner.state()["obs_moments"])[1]
        assert all(np.array_equal(moments[name], after[name]) for name in moments)
    assert len(learner.state()["held"]) == 4


def test_a_warm_start_sets_the_target_too() -> None:
    _, _, answers = run(3)
    fresh = make_plan(load_config(dqn_config())).build_learner()
    fresh.warm_start(answers[-1][1])
    part = fresh.algorithm.modules["policy"]
    assert torch.equal(part.flat.data, part.target_flat.data)
    published = fresh.weights(0).arrays()
    for name, array in answers[-1][1].arrays().items():
        if name != "policy.epsilon":
            assert np.array_equal(array, published[name])
