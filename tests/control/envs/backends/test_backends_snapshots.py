"""Snapshots are seeds and actions: bit-equal continuation, also where pickling would return a fresh environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.columns import tree_leaves
from distrl.base.errors import EnvError
from distrl.base.pack import load_state, save_state
from distrl.base.seeds import seed_for
from distrl.control.envs.backends.actions import ActionHistory, random_actions
from distrl.control.envs.backends.interface import VectorEnv
from distrl.control.envs.checker.check import probe_snapshot
from distrl.control.envs.make_vector import make_vector
from tests.support.envs import env_config as Config
from tests.support.toy_envs import DictEnv, LeakyEnv, MaskedEnv, ToyEnv, TupleEnv, UnseededEnv

ENVS = {
    "CartPole": Config(id="CartPole-v1"),
    "Pendulum": Config(id="Pendulum-v1"),
    "stacked": Config(id="CartPole-v1", frame_stack=3),
    "LunarLander": Config(id="LunarLander-v3"),
    "Hopper": Config(id="Hopper-v5"),
    "HalfCheetah": Config(id="HalfCheetah-v5"),
    "dict": Config(id=DictEnv),
    "tuple": Config(id=TupleEnv),
    "masked": Config(id=MaskedEnv),
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its log where it is started."""
    monkeypatch.chdir(tmp_path)


def make(config: Any, num_envs: int = 2) -> VectorEnv:
    return make_vector(config, num_envs, lambda i, n: seed_for(3, "episode", i, n))


def play(vector: VectorEnv, steps: int, seed: int) -> list[bytes]:
    """Step with seeded random actions; everything that was seen, as bytes."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        step = vector.step(random_actions(vector.action_space, vector.num_envs, rng, vector.mask))
        seen += [leaf.tobytes() for leaf in tree_leaves(vector.obs)]
        seen += [step.reward.tobytes(), step.terminated.tobytes(), step.truncated.tobytes(), vector.first.tobytes()]
        seen += [repr(step.episodes).encode()]
    return seen


@pytest.mark.parametrize("name", ENVS)
def test_restored_in_the_middle_of_an_episode(name: str, tmp_path: Path) -> None:
    original = make(ENVS[name])
    original.reset()
    play(original, 67, seed=0)
    save_state(tmp_path / "snapshot", original.snapshot())
    expected = play(original, 60, seed=1)
    copy = make(ENVS[name])
    copy.restore(load_state(tmp_path / "snapshot"))
    assert play(copy, 60, seed=1) == expected


def test_restored_again_and_again() -> None:
    undisturbed = make(ENVS["CartPole"])
    undisturbed.reset()
    expected = [play(undisturbed, 9, seed=k) for k in range(12)]
    vector = make(ENVS["CartPole"])
    vector.reset()
    for k in range(12):
        state = vector.snapshot()
        vector = make(ENVS["CartPole"])
        vector.restore(state)
        assert play(vector, 9, seed=k) == expected[k]


def test_at_the_first_observation_and_before_it() -> None:
    vector = make(ENVS["CartPole"])
    before = vector.snapshot()
    vector.reset()
    at_first = vector.snapshot()
    expected = play(vector, 5, seed=0)
    for state, begun in ((before, False), (at_first, True)):
        copy = make(ENVS["CartPole"])
        copy.restore(state)
        if not begun:
            copy.reset()
        assert copy.first.all()
        assert play(copy, 5, seed=0) == expected


def test_a_snapshot_does_not_change_afterwards() -> None:
    vector = make(ENVS["Pendulum"])
    vector.reset()
    play(vector, 10, seed=0)
    state = vector.snapshot()
    kept = [leaf.copy() for leaf in (state["obs"], *state["actions"], state["return"], state["episode"])]
    play(vector, 500, seed=1)
    now = (state["obs"], *state["actions"], state["return"], state["episode"])
    assert all(np.array_equal(a, b) for a, b in zip(kept, now, strict=True))


def test_actions_are_kept_in_their_smallest_dtype() -> None:
    vector = make(ENVS["CartPole"])
    vector.reset()
    play(vector, 3, seed=0)
    assert [(a.dtype, a.shape) for a in vector.snapshot()["actions"]] == [(np.dtype(np.uint8), (3,))] * 2


def test_wrong_number_of_environments() -> None:
    vector = make(ENVS["CartPole"])
    vector.reset()
    with pytest.raises(EnvError, match="a snapshot of 2 environments for 3"):
        make(ENVS["CartPole"], 3).restore(vector.snapshot())


def test_an_unseeded_environment_is_found_out() -> None:
    vector = make(Config(id=UnseededEnv))
    vector.reset()
    play(vector, 4, seed=0)
    with pytest.raises(EnvError, match="replayed from its seed and actions: something in it depends on neither"):
        make(Config(id=UnseededEnv)).restore(vector.snapshot())


@pytest.mark.parametrize("name", ENVS)
def test_probe_trusts(name: str) -> None:
    assert probe_snapshot(ENVS[name]) is None


@pytest.mark.parametrize("env", [UnseededEnv, LeakyEnv])
def test_probe_does_not_trust(env: type[ToyEnv]) -> None:
    assert "depends on neither" in (probe_snapshot(Config(id=env)) or "")


@pytest.mark.parametrize("backend", ["vector", "envpool"])
def test_probe_of_a_back_end_without_snapshots(backend: str) -> None:
    reason = probe_snapshot(Config(id="CartPole-v1", backend=backend))
    assert reason == f"backend {backend} has no exact snapshots."


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=120), st.integers(1, 8))
def test_history_is_the_actions_since_the_reset(ends: list[list[bool]], capacity: int) -> None:
    """Against lists, through every growth and drop of the block."""
    history = ActionHistory(DictEnv.action_space, 3, capacity)
    rng = np.random.default_rng(len(ends))
    expected: list[list[Any]] = [[], [], []]
    for row in ends:
        action = random_actions(DictEnv.action_space, 3, rng)
        history.append(action)
        for i, end in enumerate(row):
            expected[i].append(action["arm"][i])
            if end:
                history.begin(i)
                expected[i] = []
    copy = ActionHistory(DictEnv.action_space, 3, capacity)
    copy.load([history.since_reset(i) for i in range(3)])
    for one in (history, copy):
        for i in range(3):
            assert one.length(i) == len(expected[i])
            assert one.since_reset(i)["arm"].tolist() == [row.tolist() for row in expected[i]]
