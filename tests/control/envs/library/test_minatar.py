"""MinAtar through gymnasium: the package's games, exactly, without the package's window."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.control.envs.checker.check import check_env, probe_snapshot
from distrl.control.envs.library.minatar import GAMES, MinAtar
from distrl.control.envs.make import make_env
from distrl.control.envs.make_vector import make_vector
from distrl.models.layers.torsos import build_torso
from tests.control.envs.backends.test_backends_snapshots import play
from tests.support.envs import env_config as Config

pytest.importorskip("minatar", reason="MinAtar is in the extra `envs`")


@pytest.mark.parametrize("game", GAMES)
def test_plays_like_the_package(game: str) -> None:
    """Against `minatar.Environment`, which draws the sticky action from the same generator."""
    from minatar import Environment

    ours = make_env(Config(id=f"distrl/MinAtar-{game}-v1"))
    theirs = Environment(GAMES[game])
    actions = theirs.minimal_action_set()
    assert ours.action_space.n == len(actions)  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for episode in range(3):
        theirs.seed(episode)
        theirs.reset()
        theirs.last_action = 0  # the package keeps the one of the episode before
        obs, _ = ours.reset(seed=episode)
        for _ in range(200):
            assert np.array_equal(obs, theirs.state())
            action = int(rng.integers(len(actions)))
            obs, reward, terminated, truncated, _ = ours.step(action)
            assert (reward, terminated) == theirs.act(actions[action])
            assert not truncated
            if terminated:
                break


@pytest.mark.parametrize("game", GAMES)
def test_snapshot_checker_and_torso(game: str) -> None:
    config = Config(id=f"distrl/MinAtar-{game}-v1")
    original, copy = (make_vector(config, 2, lambda i, n: 10 * i + n) for _ in range(2))
    original.reset()
    play(original, 150, seed=0)
    copy.restore(original.snapshot())
    assert play(copy, 60, seed=1) == play(original, 60, seed=1)
    assert probe_snapshot(config) is None
    assert {finding.level for finding in check_env(config, steps=100) if finding.title != "episodes"} == {"ok"}
    obs = torch.from_numpy(original.obs)
    for torso in ("minatar_cnn", "impala_resnet", "mlp", "auto"):
        model = SimpleNamespace(torso=torso, hidden=[32], activation="relu")
        assert build_torso(original.observation_space, model)(obs).shape == (2, 32)


def test_planes_are_read_as_channels() -> None:
    """Also Seaquest's ten planes of 10 x 10: the convolution is over places, so moving a thing moves its feature."""
    space = MinAtar("Seaquest").observation_space
    assert space.shape == (10, 10, 10)
    torso = build_torso(space, SimpleNamespace(torso="minatar_cnn", hidden=[8], activation="relu"))
    one, moved = torch.zeros(1, 10, 10, 10, dtype=torch.bool), torch.zeros(1, 10, 10, 10, dtype=torch.bool)
    one[0, 4, 4, 7] = moved[0, 5, 6, 7] = True
    maps = [torso.convolution(torso.to_channels_first(obs)) for obs in (one, moved)]
    assert torch.allclose(maps[0][..., :-1, :-2], maps[1][..., 1:, 2:])


def test_no_window_libraries() -> None:
    code = (
        "import sys; from distrl.control.envs.library.minatar import MinAtar; MinAtar('Breakout').reset(seed=0); "
        "sys.exit(bool({'matplotlib', 'seaborn', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options() -> None:
    with pytest.raises(ConfigError, match="did you mean 'Breakout'"):
        MinAtar("Brekout")
    with pytest.raises(ConfigError, match="sticky"):
        MinAtar("Breakout", sticky=1.0)
    env = MinAtar("Breakout", minimal_actions=False, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.action_space.n == 6  # type: ignore[attr-defined]
    assert env.render().shape == (100, 100, 3)
