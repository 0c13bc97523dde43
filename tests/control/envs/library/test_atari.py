"""The field's Atari preprocessing, on frames that are known and on the ALE."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from distrl.base.errors import ConfigError
from distrl.control.envs.checker.check import probe_snapshot
from distrl.control.envs.library.atari import AtariPreprocessing, area_taps
from distrl.control.envs.make import make_env
from distrl.control.envs.make_vector import make_vector
from distrl.control.envs.spaces import difference
from tests.control.envs.backends.test_backends_snapshots import play
from tests.support.envs import env_config as Config


class Screen(gymnasium.Env[Any, Any]):
    """Frame t is all t, but blank where t is odd; reward t; a life is lost in frame `dies`."""

    observation_space = Box(0, 255, (6, 8), np.uint8)
    action_space = Discrete(4)
    _frameskip = 1

    def __init__(self, dies: int = 1000, ends: int = 1000):
        self.t, self.dies, self.ends = 0, dies, ends
        self.actions: list[int] = []

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE", "LEFT", "RIGHT"]

    def frame(self) -> np.ndarray:
        return np.full((6, 8), 0 if self.t % 2 else self.t, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.frame(), {"lives": 3}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.actions.append(int(action))
        return self.frame(), float(self.t), self.t >= self.ends, False, {"lives": 3 - (self.t >= self.dies)}


def test_skips_adds_and_takes_the_larger_frame() -> None:
    env = AtariPreprocessing(Screen(), noop_max=0, fire_reset=False, size=3)
    assert env.reset(seed=0)[0].tolist() == [[0] * 3] * 3
    obs, reward, *_ = env.step(2)
    assert (obs[0, 0], reward) == (4, 1 + 2 + 3 + 4)
    obs, reward, *_ = AtariPreprocessing(Screen(), frame_skip=3, noop_max=0, fire_reset=False).step(2)
    assert (obs[0, 0], reward) == (2, 1 + 2 + 3)  # the third frame is blank, the second one is not
    assert obs.shape == (84, 84)


def test_noops_then_fire() -> None:
    counts = []
    for seed in range(60):
        screen = Screen()
        AtariPreprocessing(screen, noop_max=5).reset(seed=seed)
        assert screen.actions == [0] * (len(screen.actions) - 1) + [1]
        counts.append(len(screen.actions) - 1)
    assert set(counts) == {1, 2, 3, 4, 5}


def test_a_game_that_ends_during_the_noops_begins_again() -> None:
    screen = Screen(ends=2)
    obs, _ = AtariPreprocessing(screen, noop_max=9, fire_reset=False).reset(seed=1)
    assert obs.shape == (84, 84)
    assert screen.t < 2


def test_the_end_cuts_the_skip() -> None:
    env = AtariPreprocessing(Screen(ends=2), noop_max=0, fire_reset=False)
    env.reset(seed=0)
    obs, reward, terminated, *_ = env.step(0)
    assert (obs[0, 0], reward, terminated) == (2, 3.0, True)


@pytest.mark.parametrize("episodic", [False, True])
def test_lives(episodic: bool) -> None:
    env = AtariPreprocessing(Screen(dies=6), noop_max=0, fire_reset=False, episodic_life=episodic)
    env.reset(seed=0)
    assert [env.step(0)[2] for _ in range(2)] == [False, episodic]
    env.reset()
    assert not env.step(0)[2]


def test_clipped_rewards() -> None:
    env = AtariPreprocessing(Screen(), noop_max=0, clip_reward=True)
    env.reset(seed=0)
    assert env.step(0)[1] == 1.0


@pytest.mark.parametrize(("old", "new"), [(210, 84), (160, 84), (7, 3), (84, 84), (3, 5)])
def test_every_new_pixel_is_the_mean_over_what_it_covers(old: int, new: int) -> None:
    line = np.random.default_rng(old).uniform(0, 255, old)
    fine = np.repeat(line, new).reshape(new, old).mean(1)  # cut every pixel into `new` equal parts
    index, weight = area_taps(old, new)
    assert (weight * line[index]).sum(0) == pytest.approx(fine, rel=1e-5)


def test_color_frames_become_gray() -> None:
    class Color(Screen):
        observation_space = Box(0, 255, (6, 8, 3), np.uint8)

        def frame(self) -> np.ndarray:
            return np.broadcast_to(np.array([100, 200, 50], np.uint8), (6, 8, 3)).copy()

    obs, _ = AtariPreprocessing(Color(), noop_max=0).reset(seed=0)
    assert np.unique(obs).tolist() == [round(0.299 * 100 + 0.587 * 200 + 0.114 * 50)]


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"atari: needs frames \(H, W\) or \(H, W, 3\)"):
        make_env(Config(id="CartPole-v1", wrappers=["atari"]))
    skipping = Screen()
    skipping._frameskip = 4
    with pytest.raises(ConfigError, match=r"skips frames itself \(4\)"):
        AtariPreprocessing(skipping)
    with pytest.raises(ConfigError, match="frame_skip 0"):
        AtariPreprocessing(Screen(), frame_skip=0)


class TestALE:
    """On the emulator itself."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("ale_py", reason="ale-py is in the extra `envs`")

    def test_snapshots_round_trip_through_lives_and_sticky_actions(self) -> None:
        kwargs = {"game": "Breakout", "sticky": 0.25, "episodic_life": True}
        config = Config(id="distrl/Atari-v5", kwargs=kwargs, frame_stack=4)
        original, copy = (make_vector(config, 2, lambda i, n: 10 * i + n) for _ in range(2))
        original.reset()
        play(original, 120, seed=0)
        assert original.observation_space.shape == (4, 84, 84)
        copy.restore(original.snapshot())
        assert play(copy, 60, seed=1) == play(original, 60, seed=1)
        assert original.snapshot()["episode"].min() >= 1  # a life was lost on the way
        assert probe_snapshot(config) is None

    @pytest.mark.parametrize(("kind", "gap"), [("grayscale", 0.0), ("rgb", 1.0)])
    def test_the_wrapper_around_an_ale_id(self, kind: str, gap: float) -> None:
        """The same pictures as `distrl/Atari-v5`; from colors nearly, where two frames differ in color."""
        plain = Config(id="ALE/Pong-v5", wrappers=["atari"])
        with pytest.raises(ConfigError, match=r"Set env.kwargs.frameskip=1"):
            make_env(plain)
        plain = plain.model_copy(
            update={"kwargs": {"frameskip": 1, "repeat_action_probability": 0.0, "obs_type": kind}}
        )
        one, other = make_env(plain), make_env(Config(id="distrl/Atari-v5", kwargs={"game": "Pong"}))
        assert one.action_space == other.action_space
        pairs = [(one.reset(seed=5)[0], other.reset(seed=5)[0])]
        pairs += [(one.step(t % 6)[0], other.step(t % 6)[0]) for t in range(30)]
        assert max(np.abs(a.astype(float) - b).mean() for a, b in pairs) <= gap

    def test_unknown_games(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'breakout'"):
            make_env(Config(id="distrl/Atari-v5", kwargs={"game": "Brekout"}))
        with pytest.raises(ConfigError, match=r"Did you mean 'ALE/Pong-v5'\?"):
            make_env(Config(id="ALE/Pongg-v5"))


def test_envpool_plays_atari_and_evaluations_play_the_same_game() -> None:
    pytest.importorskip("envpool", reason="EnvPool is in the extra `envs`, on Linux")
    pytest.importorskip("ale_py", reason="ale-py is in the extra `envs`")
    config = Config(id="Breakout-v5", backend="envpool", kwargs={"reward_clip": True, "num_threads": 1})
    vector = make_vector(config, 2, lambda i, n: i)
    vector.reset()
    single = make_env(config)
    obs, _ = single.reset(seed=0)
    assert difference(single.observation_space, vector.observation_space) is None
    assert difference(single.action_space, vector.action_space) is None
    # both show the wall and the paddle at the same places
    gap = np.abs(obs[-1].astype(int) - vector.obs[0, -1]) > 20
    assert gap.mean() < 0.01
    play(vector, 20, seed=0)
    vector.close()
    with pytest.raises(ConfigError, match="Use square gray images"):
        make_env(Config(id="Breakout-v5", kwargs={"img_height": 80}))
