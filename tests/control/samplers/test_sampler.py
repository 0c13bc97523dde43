"""`EnvSampler`: fragments depend on (weights, seed, stream, sequence number) and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distrl.base.columns import Columns, tree_leaves, tree_map
from distrl.base.errors import NonFiniteError
from distrl.experience.rollout import check_rollout
from distrl.experience.weights import Weights

ENVS: dict[str, dict[str, Any]] = {
    "cartpole": {},
    "recurrent": {"model": {"recurrent": "lstm", "recurrent_size": 8}},
    "normalized": {
        "env": {"id": "Pendulum-v1", "max_episode_steps": 20, "normalize_obs": True, "normalize_reward": True}
    },
    "masked_dict": {"env": {"id": "tests.runtime.user_code:MaskedDictEnv"}},
    "nested": {"env": {"id": "tests.support.toy_envs:DictEnv"}},
}


def toy(name: str, length: int, steps: int, **kwargs: Any) -> dict[str, Any]:
    """Two streams of two toy environments."""
    env = {"id": f"tests.support.toy_envs:{name}", "num_envs": 4, "streams": 2, "kwargs": {"length": length, **kwargs}}
    return {"env": env, "algorithm": {"rollout_steps": steps}}


def same(one: Columns, other: Columns) -> bool:
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return list(one) == list(other) and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("case", ENVS)
def test_where_a_stream_lives_changes_nothing(bench: Any, case: str) -> None:
    """All streams in one sampler; each alone in its own; and one that moves to another sampler by its snapshot."""
    b = bench(**ENVS[case])
    together, alone = b.sampler(), b.sampler()
    snapshots = {}
    for seq in range(4):
        fragments = b.collect(together, seq, [0, 1, 2, 3])
        ((meta, data),) = b.collect(alone, seq, [2])
        assert same(check_rollout(fragments[2][1].rollout), data.rollout)
        assert meta.episodes == fragments[2][0].episodes
        moved = b.sampler()
        for twin, twin_data in b.collect(moved, seq, [3, 1], snapshots):
            original = fragments[twin.unit.stream]
            assert same(twin_data.rollout, original[1].rollout)
            assert twin.episodes == original[0].episodes
            assert _same_moments(twin_data, original[1])
        snapshots = {meta.unit.stream: meta.snapshot for meta, _ in fragments}
        moved.close()


def _same_moments(one: Any, other: Any) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("obs_moments", "return_moments")]
    return all(
        a is b is None or (a.count == b.count and np.array_equal(a.mean, b.mean) and np.array_equal(a.m2, b.m2))
        for a, b in pairs
    )


@pytest.mark.parametrize("case", ENVS)
def test_fused_streams_act_as_single_ones(bench: Any, case: str) -> None:
    """Rows of a matrix product may differ in their last bits between batch sizes, and in nothing else."""
    b = bench(**ENVS[case])
    single, fused = b.sampler(), b.sampler(fuse=True)
    for seq in range(2):
        for (meta, data), (fused_meta, fused_data) in zip(
            b.collect(single, seq, [0, 1, 2, 3]), b.collect(fused, seq, [0, 1, 2, 3]), strict=True
        ):
            one, other = data.rollout, check_rollout(fused_data.rollout)
            assert list(one) == list(other)
            for name in one:
                for a, c in zip(tree_leaves(one[name]), tree_leaves(other[name]), strict=True):
                    assert a.dtype == c.dtype
                    np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-5, err_msg=name)
            np.testing.assert_allclose(one.logp, other.logp, atol=1e-6)
            assert (meta.unit, meta.version, meta.env_steps) == (fused_meta.unit, 0, fused_meta.env_steps)


def test_noise_is_named_by_seed_stream_and_fragment(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def record(b: Any, fuse: bool) -> list[int]:
        drawn.clear()
        sampler = b.sampler(fuse=fuse)
        draw = sampler.policy.actions.draw_noise

        def spy(rng: np.random.Generator, shape: Any) -> Any:
            drawn.append(rng.bit_generator.state["state"]["state"])
            return draw(rng, shape)

        monkeypatch.setattr(sampler.policy.actions, "draw_noise", spy)
        for seq in (0, 1):
            b.collect(sampler, seq, [0, 1, 2, 3])
        return list(drawn)

    first = record(bench(), fuse=False)
    assert len(first) == len(set(first)) == 8
    assert record(bench(), fuse=True) == first
    assert not set(record(bench(seed=5), fuse=False)) & set(first)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
def test_fragments_of_one_batch_never_share_arrays(bench: Any, fuse: bool, reuse: bool) -> None:
    """A batch may be made in several calls; none may write over another's fragments."""
    b = bench()
    sampler = b.sampler(fuse=fuse, reuse_buffers=reuse)
    for seq in range(3):
        made, copies = [], []
        for streams in ([0, 1], [2], [3]):
            for _, data in b.collect(sampler, seq, streams):
                made.append(data.rollout)
                copies.append(data.rollout.map(np.copy))
        assert all(same(rollout, copy) for rollout, copy in zip(made, copies, strict=True))
        assert len({rollout.obs.tobytes() for rollout in made}) == 4


def test_without_reuse_fragments_are_the_callers(bench: Any) -> None:
    b = bench()
    sampler = b.sampler()
    kept = [data.rollout for _, data in b.collect(sampler, 0, [0, 1])]
    copies = [rollout.map(np.copy) for rollout in kept]
    for seq in range(1, 4):
        b.collect(sampler, seq, [0, 1])
    assert all(same(rollout, copy) for rollout, copy in zip(kept, copies, strict=True))


# ---- ends of episodes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize(
    ("steps", "ends", "last_time"),
    [(16, [9], 6), (10, [9], 0), (20, [9, 19], 0), (9, [], 9)],
    ids=["inside", "at the end", "both", "none"],
)
def test_truncation_carries_the_true_last_observation(
    bench: Any, fuse: bool, steps: int, ends: list[int], last_time: int
) -> None:
    """The toy environment observes (time, noise, last action) and is cut off after 10 steps."""
    b = bench(**toy("TruncatingEnv", 10, steps))
    for meta, data in b.collect(b.sampler(fuse=fuse), 0, [0, 1]):
        rollout = data.rollout
        assert rollout.final_index.tolist() == [[t, env] for t in ends for env in (0, 1)]
        assert rollout.final_obs.shape == (2 * len(ends), 3)
        assert (rollout.final_obs[:, 0] == 10).all()
        for (t, env), final in zip(rollout.final_index, rollout.final_obs, strict=True):
            assert final[2] == rollout.action[t, env]  # of this very step
        assert (rollout.last_obs[:, 0] == last_time).all()
        assert np.flatnonzero(rollout.truncated[:, 0]).tolist() == ends
        assert not rollout.terminated.any()
        assert np.flatnonzero(rollout.first[:, 0]).tolist() == [t for t in [0, *(end + 1 for end in ends)] if t < steps]
        assert (rollout.obs[:, :, 0] == (np.arange(steps) % 10)[:, None]).all()
        assert [(e.env, e.episode, e.return_, e.length) for e in meta.episodes] == [
            (env, number, 55.0, 10) for number in range(len(ends)) for env in (0, 1)
        ]


def test_an_end_that_is_both_counts_as_terminated(bench: Any) -> None:
    b = bench(**toy("TerminatingEnv", 10, 12, both=True))
    for _, data in b.collect(b.sampler(), 0, [0, 1]):
        assert data.rollout.terminated[9].all()
        assert data.rollout.truncated[9].all()
        assert len(data.rollout.final_index) == 0


def test_an_episode_over_two_fragments_is_reported_once(bench: Any) -> None:
    b = bench(**toy("TruncatingEnv", 10, 6))
    sampler = b.sampler()
    reports = [b.collect(sampler, seq, [0, 1])[0][0].episodes for seq in range(4)]
    assert [len(report) for report in reports] == [0, 2, 0, 2]
    assert {(e.return_, e.length) for report in reports for e in report} == {(55.0, 10)}


def test_recurrent_state_goes_on_and_is_reset(bench: Any) -> None:
    b = bench(**toy("TruncatingEnv", 10, 10), model={"recurrent": "gru", "recurrent_size": 8})
    sampler = b.sampler()
    first, second = (b.collect(sampler, seq, [0])[0][1].rollout for seq in (0, 1))
    assert all((leaf == 0).all() for leaf in tree_leaves(first.state))
    assert any((leaf != 0).any() for leaf in tree_leaves(second.state))  # as it was left; `first` says to forget it
    assert second.first[0].all()


# ---- burnt steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse", [False, True])
def test_burnt_steps_count_for_nothing(bench: Any, fuse: bool) -> None:
    env = {"backend": "vector", "num_envs": 4, "streams": 2, "normalize_obs": True, "normalize_reward": True}
    b = bench(deterministic=False, env=env, algorithm={"rollout_steps": 64})
    sampler = b.sampler(fuse=fuse)
    burnt = 0
    for seq in range(3):
        for meta, data in b.collect(sampler, seq, [0, 1]):
            rollout = data.rollout
            done = rollout.terminated | rollout.truncated
            assert (rollout.valid[1:] == ~done[:-1]).all()  # the step after an end is the reset
            assert meta.env_steps == rollout.valid.sum()
            assert data.obs_moments.count == data.return_moments.count == rollout.valid.sum()
            burnt += (~rollout.valid).sum()
    assert burnt > 0


# ---- what normalizers are fed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse", [False, True])
def test_moments_are_those_of_the_raw_observations(bench: Any, fuse: bool) -> None:
    b = bench(**ENVS["normalized"])
    model = b.plan.build_model()
    model.policy.normalizer.load(np.full(3, 0.5), np.full(3, 4.0), 100.0)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    b.weights = Weights.of(arrays, 0)
    for _, data in b.collect(b.sampler(fuse=fuse), 0, [0, 1]):
        seen = data.rollout.obs.astype(np.float64)
        raw = (seen * 2.0 + 0.5).reshape(-1, 3)  # the inverse of what the normalizer did; nothing was clipped
        assert np.abs(seen).max() < 10
        np.testing.assert_allclose(data.obs_moments.mean, raw.mean(0), atol=1e-5)
        np.testing.assert_allclose(data.obs_moments.var, raw.var(0), atol=1e-5)


def test_weights_that_are_not_finite_are_named(bench: Any) -> None:
    b = bench()
    arrays = tree_map(lambda leaf: np.full_like(leaf, np.nan), b.weights.arrays())
    b.weights = Weights.of(arrays, 0)
    with pytest.raises(NonFiniteError, match="weight version 0"):
        b.collect(b.sampler(), 0, [0])


def test_raw_observations_for_a_replay(bench: Any) -> None:
    """The same steps as a normalizing run sees, before normalization; last and final observations too."""
    b = bench(**ENVS["normalized"])
    normalizer = b.plan.build_learner().algorithm.policy.normalizer
    normalizer.load(np.full(3, 0.5), np.full(3, 4.0), 10.0)
    seen, raw = b.sampler(), b.sampler()
    raw.raw_obs = True
    arrays = {**b.weights.arrays(), "policy.normalizer.mean": np.full(3, 0.5), "policy.normalizer.var": np.full(3, 4.0)}
    b.weights = Weights.of(arrays, 0)
    for seq in range(2):
        one, other = (b.collect(sampler, seq, [0, 1])[0][1].rollout for sampler in (seen, raw))
        assert np.array_equal(one.action, other.action)
        for name in ("obs", "last_obs", "final_obs"):
            expected = (other[name] - 0.5) / np.sqrt(4.0 + 1e-8)
            np.testing.assert_allclose(one[name], expected, atol=1e-5)
            assert other[name].dtype == np.float32
    assert len(one.final_obs) == 1  # 20 steps an episode, 32 in two fragments


def test_reward_channels_are_recorded(bench: Any) -> None:
    """The channels of a step add up to its reward."""
    b = bench(env={"id": "distrl/TwoChannels-v0"})
    rollout = check_rollout(b.collect(b.sampler(), 0, [0, 1])[0][1].rollout)
    assert rollout.reward_channels.shape == (*rollout.reward.shape, 2)
    np.testing.assert_allclose(rollout.reward_channels.sum(-1), rollout.reward, atol=1e-6)
    assert np.abs(rollout.reward_channels).max() > 0
