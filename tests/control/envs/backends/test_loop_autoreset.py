"""Our loop gives the transitions of gymnasium's SyncVectorEnv, bit by bit, in each of its autoreset modes.

Every environment is driven by its own action line (its n-th real step takes the n-th action), and episode n of
environment i has one seed however it is reset, so the sequences can be compared over many episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import Env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.columns import tree_leaves, tree_map, tree_stack
from distrl.base.seeds import seed_for
from distrl.control.envs.backends.actions import clipper, joiner, random_actions
from distrl.control.envs.make import make_env
from distrl.control.envs.make_vector import make_vector
from tests.support.envs import env_config as Config
from tests.support.toy_envs import DictEnv, SeedLine, TerminatingEnv, TupleEnv

ENVS = {
    "cartpole": Config(id="CartPole-v1", max_episode_steps=25),
    "pendulum": Config(id="Pendulum-v1", max_episode_steps=17),
    "stacked": Config(id="Acrobot-v1", max_episode_steps=20, frame_stack=3),
    "lunarlander": Config(id="LunarLander-v3", max_episode_steps=90),
    "dict": Config(id=DictEnv, kwargs={"length": 7}),
    "tuple": Config(id=TupleEnv, kwargs={"length": 5}),
    "both ends": Config(id=TerminatingEnv, kwargs={"length": 4, "both": True}),
}


class ActionLines:
    """The n-th real step of environment i takes action n of line i."""

    def __init__(self, space: Any, num_envs: int, steps: int, seed: int):
        rng = np.random.default_rng(seed)
        lines = [random_actions(space, steps, rng) for _ in range(num_envs)]
        self.lines, self.counts = lines, [0] * num_envs

    def next(self, real: np.ndarray) -> Any:
        rows = [tree_map(lambda a, n=n: a[n], line) for line, n in zip(self.lines, self.counts, strict=True)]
        self.counts = [n + int(r) for n, r in zip(self.counts, real, strict=True)]
        return tree_stack(rows)


def line(tree: Any) -> list[Any]:
    return [np.array(leaf) for leaf in tree_leaves(tree)]


def drive_ours(config: Any, num_envs: int, steps: int, seed: int) -> list[list[Any]]:
    """For each environment its sequence of (obs, reward, terminated, truncated, next observation)."""
    vector = make_vector(config, num_envs, lambda i, n: seed_for(seed, "episode", i, n))
    vector.reset()
    actions = ActionLines(vector.action_space, num_envs, steps, seed)
    lines: list[list[Any]] = [[] for _ in range(num_envs)]
    for _ in range(steps):
        before = tree_map(np.copy, vector.obs)
        step = vector.step(actions.next(np.ones(num_envs, bool)))
        finals = dict(step.finals)
        assert sorted(finals) == np.flatnonzero(step.terminated | step.truncated).tolist()
        assert [end.env for end in step.episodes] == [i for i, _ in step.finals]
        assert np.flatnonzero(vector.first).tolist() == sorted(finals)
        for i in range(num_envs):
            after = finals.get(i, tree_map(lambda leaf, i=i: leaf[i], vector.obs))
            start = tree_map(lambda leaf, i=i: leaf[i], before)
            flags = bool(step.terminated[i]), bool(step.truncated[i])
            lines[i].append((line(start), step.reward[i], *flags, line(after)))
    vector.close()
    return lines


def drive_gymnasium(config: Any, mode: AutoresetMode, num_envs: int, steps: int, seed: int) -> list[list[Any]]:
    def maker(i: int) -> Any:
        def make() -> Env[Any, Any]:
            return SeedLine(make_env(config), lambda n: seed_for(seed, "episode", i, n))

        return make

    vector = SyncVectorEnv([maker(i) for i in range(num_envs)], autoreset_mode=mode)
    space = vector.single_action_space
    clip, join = clipper(space), joiner(space)
    obs, _ = vector.reset()
    actions = ActionLines(space, num_envs, steps, seed)
    lines: list[list[Any]] = [[] for _ in range(num_envs)]
    done = np.zeros(num_envs, bool)
    while min(map(len, lines)) < steps:
        real = np.array([len(one) < steps for one in lines]) & ~(done & (mode == AutoresetMode.NEXT_STEP))
        actions.counts = [min(n, steps - 1) for n in actions.counts]
        before = obs
        obs, reward, terminated, truncated, info = vector.step(join(clip(actions.next(real))))
        done = terminated | truncated
        for i in np.flatnonzero(real):
            after = tree_map(lambda leaf, i=i: leaf[i], obs)
            if mode == AutoresetMode.SAME_STEP and done[i]:
                after = info["final_obs"][i]
            start = tree_map(lambda leaf, i=i: leaf[i], before)
            lines[i].append((line(start), reward[i], bool(terminated[i]), bool(truncated[i]), line(after)))
        if mode == AutoresetMode.DISABLED and done.any():
            obs, _ = vector.reset(options={"reset_mask": done.copy()})
            done[:] = False
    vector.close()
    return lines


def assert_equal(ours: list[list[Any]], theirs: list[list[Any]]) -> None:
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert len(mine) == len(other)
        for t, (a, b) in enumerate(zip(mine, other, strict=True)):
            assert a[1:4] == b[1:4], f"environment {i}, step {t}"
            for x, y in zip(a[0] + a[4], b[0] + b[4], strict=True):
                assert x.tobytes() == y.astype(x.dtype).tobytes(), f"environment {i}, step {t}"


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", ENVS)
def test_transitions_equal_gymnasium(name: str, mode: AutoresetMode) -> None:
    steps = 200 if name == "lunarlander" else 80
    ours = drive_ours(ENVS[name], 3, steps, seed=5)
    assert sum(t[2] or t[3] for t in ours[0]) >= 2, "compare several episodes"
    assert_equal(ours, drive_gymnasium(ENVS[name], mode, 3, steps, seed=5))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_envs=st.integers(1, 5),
    length=st.integers(1, 9),
    both=st.booleans(),
    mode=st.sampled_from(list(AutoresetMode)),
)
def test_any_episode_length_in_any_mode(seed: int, num_envs: int, length: int, both: bool, mode: AutoresetMode) -> None:
    config = Config(id=TerminatingEnv, kwargs={"length": length, "both": both})
    assert_equal(drive_ours(config, num_envs, 30, seed), drive_gymnasium(config, mode, num_envs, 30, seed))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), small=st.integers(1, 3), large=st.integers(4, 6))
def test_an_environment_does_not_see_its_neighbors(seed: int, small: int, large: int) -> None:
    """Its transitions do not depend on how many others are stepped beside it."""
    config = ENVS["cartpole"]
    assert_equal(drive_ours(config, small, 40, seed), drive_ours(config, large, 40, seed)[:small])
