"""The replay's own promises: bytes, refusals, edges, files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from safetensors.numpy import load_file

from distrl.base.columns import Columns, tree_leaves, tree_map
from distrl.base.errors import CheckpointError, ConfigError, ResourceError
from distrl.store.replay.buffer import Replay
from distrl.store.replay.layout import Column, bytes_per_transition
from distrl.store.replay.priorities import PriorityError, PrioritySettings
from tests.support.replay_worlds import World, space

GAMMA = 0.5
ATARI = Box(0, 255, (4, 84, 84), np.uint8)


def filled(fragments: int = 8, steps: int = 4, seed: int = 0, **options: Any) -> tuple[Replay, World]:
    """A replay with fragments of one stream of two environments."""
    frames = options.pop("frame_stack", 1)
    world = World(0, 2, "box", frames, False, np.random.default_rng(seed))
    options = {"capacity": 100, "num_envs": 2, "frame_stack": frames, **options}
    replay = Replay(space("box", frames), Discrete(5), **options)
    for i in range(fragments):
        replay.insert(world.fragment(steps)[0], 0, i)
    return replay, world


def same_draws(one: Replay, other: Replay, seed: int = 0) -> bool:
    batches = [replay.sample(32, np.random.default_rng(seed), GAMMA) for replay in (one, other)]
    return all(np.array_equal(*pair) for pair in zip(*map(tree_leaves, batches), strict=True))


# ---- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prioritized", [None, PrioritySettings()])
def test_an_atari_transition_takes_one_frame(prioritized: PrioritySettings | None) -> None:
    told = bytes_per_transition(ATARI, Discrete(18), frame_stack=4, prioritized=prioritized is not None)
    replay = Replay(ATARI, Discrete(18), 20_000, 4, prioritized=prioritized, frame_stack=4)
    held = [*replay.rows.ring.arrays.values(), replay.rows.next_slot, replay.rows.prev_slot, replay.rows.broken]
    if replay.rows.tree is not None:
        held += [*replay.rows.tree.masses, *replay.rows.tree.sums]
    real = sum(array.nbytes for array in held)
    assert real <= 1.001 * replay.nbytes
    assert replay.nbytes <= 7300 * 20_000  # all of it, per transition of the capacity
    assert 84 * 84 < told <= 7300
    assert replay.rows.obs.dtype == np.uint8


def test_a_replay_larger_than_memory_is_refused_with_numbers(tmp_path: Path) -> None:
    capacity = psutil.virtual_memory().total // 7000 * 2
    with pytest.raises(ResourceError, match=r"GiB free. Set the replay's capacity to [\d,]+ or less"):
        Replay(ATARI, Discrete(18), capacity, 4, frame_stack=4)
    capacity = shutil.disk_usage(tmp_path).free // 7000  # its index of 25 bytes each fits into memory
    with pytest.raises(ResourceError, match="the disk of"):
        Replay(ATARI, Discrete(18), capacity, 4, frame_stack=4, folder=tmp_path, memory_map=True)


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"num_envs": 0}, {"n_step": 0}, {"frame_stack": 0}])
def test_numbers_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is 0"):
        filled(**wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_stack": 3}, "not a stack of 3 frames"),
        ({"extra_columns": ("reward",)}, "cannot be called 'reward'"),
        ({"masked": True}, "have no masks"),
        ({"memory_map": True}, "needs a folder"),
    ],
)
def test_columns_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Replay(Box(-1, 1, (4,)), Box(-1, 1, (2,)), 100, 1, **options)


def test_fragments_that_do_not_fit() -> None:
    replay, world = filled(capacity=30)
    with pytest.raises(ConfigError, match="the capacity is 30"):
        replay.insert(world.fragment(20)[0], 0)
    with pytest.raises(ConfigError, match="stream 1 brings 2 environments; 2 of 2"):
        replay.insert(world.fragment(2)[0], 1)
    wider = World(0, 3, "box", 1, False, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="had 2 environments, now 3"):
        replay.insert(wider.fragment(2)[0], 0)
    with pytest.raises(ResourceError, match="no transition to sample"):
        Replay(space("box", 1), Discrete(5), 100, 2).sample(1, np.random.default_rng(0), GAMMA)


def test_a_stack_of_something_else_than_frames_is_refused() -> None:
    world = World(0, 2, "box", 1, False, np.random.default_rng(0))  # observations (x, -x) look like two frames
    replay = Replay(Box(-np.inf, np.inf, (2,)), Discrete(5), 100, 2, frame_stack=2)
    with pytest.raises(ConfigError, match="not 2 times one frame"):
        replay.insert(world.fragment(2)[0], 0)


# ---- columns ---------------------------------------------------------------------------------------------------------


def test_trees_dtypes_masks_and_extra_columns() -> None:
    shown = Dict(a=Box(-1, 1, (2,), np.float64), b=Tuple([Discrete(3), Box(0, 255, (2, 2), np.uint8)]))
    acted = Dict(x=Discrete(3), y=MultiDiscrete([2, 2]))
    replay = Replay(
        shown, acted, 50, 2, extra_columns=(Column("params", (3,)), Column("version", (), "int64")), masked=True
    )
    rng = np.random.default_rng(0)

    def block(*lead: int) -> dict[str, Any]:
        images = rng.integers(0, 255, (*lead, 2, 2)).astype(np.uint8)
        return {"a": rng.random((*lead, 2)), "b": (rng.integers(0, 3, lead), images)}

    rollout = Columns(
        obs=block(3, 2),
        action={"x": rng.integers(0, 3, (3, 2)), "y": rng.integers(0, 2, (3, 2, 2))},
        reward=rng.random((3, 2)),
        terminated=np.zeros((3, 2), bool),
        truncated=np.zeros((3, 2), bool),
        first=np.zeros((3, 2), bool),
        last_obs=block(2),
        final_obs=block(0),
        final_index=np.zeros((0, 2), np.int64),
        mask={"x": rng.random((3, 2, 3)) < 0.5, "y": rng.random((3, 2, 4)) < 0.5},
        params=rng.random((3, 2, 3)),
        version=np.arange(6).reshape(3, 2),
    )
    replay.insert(rollout, 0)
    batch = replay.sample(40, rng, GAMMA)
    assert [leaf.dtype for leaf in tree_leaves(batch.obs)] == [np.float32, np.int64, np.uint8]
    t, b = np.divmod(batch.version, 2)

    def check(found: np.ndarray, given: np.ndarray) -> None:
        np.testing.assert_array_equal(found, given[t, b].astype(found.dtype))

    for name in ("obs", "action", "mask", "params", "reward"):
        tree_map(check, batch[name], rollout[name])
    inner = t < 2
    for found, given in zip(tree_leaves(batch.next_mask), tree_leaves(rollout.mask), strict=True):
        np.testing.assert_array_equal(found[inner], given[t[inner] + 1, b[inner]])
        assert found[~inner].all()  # nobody has told yet
    for found, given in zip(tree_leaves(batch.next_obs), tree_leaves(rollout.last_obs), strict=True):
        np.testing.assert_array_equal(found[~inner], given[b[~inner]].astype(found.dtype))


@pytest.mark.parametrize("value", [np.nan, -1e-9, np.inf])
def test_priorities_that_are_none(value: float) -> None:
    replay, _ = filled(prioritized=PrioritySettings())
    batch = replay.sample(8, np.random.default_rng(0), GAMMA)
    before = replay.rows.tree.mass.copy()
    priority = np.ones(8)
    priority[3] = value
    with pytest.raises(PriorityError, match=r"1 of 8 priorities .* at 3"):
        replay.update_priorities(batch.index, batch.generation, priority)
    np.testing.assert_array_equal(replay.rows.tree.mass, before)


def test_single_steps_and_longer_fragments_are_the_same_experience() -> None:
    """Single steps of environments that go on take a path of their own."""
    settings = PrioritySettings()
    single, longer = (filled(0, n_step=3, prioritized=settings, segment_rows=16)[0] for _ in range(2))
    worlds = [World(0, 2, "box", 1, False, np.random.default_rng(7)) for _ in range(2)]
    for i in range(30):
        p_end = 0.3 if i % 5 == 4 else 0.0
        longer.insert(without_truncation(worlds[0].fragment(4, p_end)[0]), 0, i)
        whole = without_truncation(worlds[1].fragment(4, p_end)[0])
        for t in range(4):
            following = whole.obs[t + 1] if t < 3 else whole.last_obs
            step = whole.only("obs", "action", "reward", "terminated", "truncated", "first")[t : t + 1]
            rest = whole.only("final_obs", "final_index").with_(last_obs=following)
            single.insert(Columns(**step.to_dict(), **rest.to_dict()), 0, 4 * i + t)
        assert single.ledger() == longer.ledger()
        assert same_draws(single, longer, i)


def without_truncation(rollout: Columns) -> Columns:
    """Truncated steps terminate: ghosts would lie elsewhere among single steps."""
    ends = rollout.terminated | rollout.truncated
    nothing = {"final_obs": rollout.final_obs[:0], "final_index": rollout.final_index[:0]}
    return rollout.with_(terminated=ends, truncated=np.zeros_like(ends), **nothing)


def test_late_updates_of_evicted_transitions_are_ignored() -> None:
    replay, world = filled(prioritized=PrioritySettings())
    batch = replay.sample(16, np.random.default_rng(0), GAMMA)
    for i in range(8, 60):
        replay.insert(world.fragment(4)[0], 0, i)
    before = replay.rows.tree.mass.copy()
    assert replay.update_priorities(batch.index, batch.generation, np.full(16, 50.0)) == 0
    np.testing.assert_array_equal(replay.rows.tree.mass, before)
    assert replay.rows.max_priority == 1


# ---- files -----------------------------------------------------------------------------------------------------------


def test_whole_segments_are_linked_and_a_kept_checkpoint_never_changes(tmp_path: Path) -> None:
    replay, world = filled(fragments=6, capacity=40, segment_rows=10)
    replay.save(tmp_path / "one")
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    replay.insert(world.fragment(1)[0], 0, 6)
    replay.save(tmp_path / "two")
    shared = {path.name for path in (tmp_path / "two").iterdir() if os.stat(path).st_nlink == 2}
    assert len(shared) >= 3
    assert all(name.startswith("segment") for name in shared)
    for i in range(7, 40):
        replay.insert(world.fragment(2)[0], 0, i)
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == first
    columns = load_file(tmp_path / "one" / min(shared))
    assert columns["obs"].shape == (10, 2)


@pytest.mark.parametrize("frames", [1, 3])
def test_mapped_segments_hold_the_same(tmp_path: Path, frames: int) -> None:
    """4096 rows a segment, so this goes round the ring more than once."""
    plain, mapped = (
        filled(0, capacity=5000, frame_stack=frames, prioritized=PrioritySettings(), segment_rows=4096, **extra)[0]
        for extra in ({}, {"folder": tmp_path / "live", "memory_map": True})
    )
    world = World(0, 2, "box", frames, False, np.random.default_rng(0))
    for i in range(18):
        rollout = world.fragment(500)[0]
        for replay in (plain, mapped):
            replay.insert(rollout, 0, i)
        assert same_draws(plain, mapped, i)
        if i in (5, 9):
            mapped.save(tmp_path / f"at{i}")
            assert any(os.stat(path).st_nlink == 2 for path in (tmp_path / f"at{i}").iterdir())
    kept = {path: path.read_bytes() for path in tmp_path.glob("at*/*")}
    mapped.save(tmp_path / "end")
    for options in ({}, {"folder": tmp_path / "again", "memory_map": True}):
        loaded, _ = filled(
            0, capacity=5000, frame_stack=frames, prioritized=PrioritySettings(), segment_rows=4096, **options
        )
        loaded.load(tmp_path / "end")
        assert same_draws(plain, loaded)
        rollout = World(0, 2, "box", frames, False, np.random.default_rng(1)).fragment(700)[0]
        loaded.insert(rollout, 0)
        loaded.sample(8, np.random.default_rng(0), GAMMA)
    assert kept == {path: path.read_bytes() for path in kept}
    assert len(list((tmp_path / "live").iterdir())) <= mapped.rows.ring.segments


@pytest.mark.parametrize("name", ["segment-0000000000.safetensors", "index.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_checkpoints_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    replay, _ = filled()
    replay.save(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2 if name != "manifest.json" else 1] ^= 0x41
        path.write_bytes(content)
    with pytest.raises(CheckpointError):
        filled(0)[0].load(tmp_path)


def test_checkpoints_of_another_replay_are_refused(tmp_path: Path) -> None:
    replay, _ = filled()
    replay.save(tmp_path)
    with pytest.raises(CheckpointError, match="has capacity 100, this run's has 101"):
        filled(0, capacity=101)[0].load(tmp_path)
    with pytest.raises(CheckpointError, match="has columns"):
        filled(0, extra_columns=("logp",))[0].load(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        filled(0)[0].load(tmp_path)
    with pytest.raises(ValueError, match="empty"):
        replay.load(tmp_path)
