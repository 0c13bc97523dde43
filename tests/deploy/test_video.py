"""Videos: written with the episode that the evaluation begins with, and refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import distrl
from distrl.base.errors import EnvError, UserError
from distrl.deploy.evaluate import Evaluator
from distrl.deploy.policy_file import SavedPolicy
from distrl.deploy.video import record
from tests.deploy.conftest import MakePolicy

imageio = pytest.importorskip("imageio", reason="the extra `export` is not installed")
pytest.importorskip("pygame", reason="CartPole draws with pygame")


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_video_shows_the_first_evaluated_episode(suffix: str, make_policy: MakePolicy, tmp_path: Path) -> None:
    path = make_policy("CartPole-v1")
    saved = SavedPolicy.read(path)
    result = Evaluator(saved.config.env, 1, seed=4).evaluate(saved.build(), 1)
    file = tmp_path / f"play{suffix}"
    assert record(distrl.load(path), file, seed=4) == result.returns[0]
    frames = [np.asarray(frame) for frame in imageio.get_reader(file)]
    equal = result.lengths[0] + 1  # a GIF shows two equal pictures in a row as one that stays longer
    assert len(frames) == equal if suffix == ".mp4" else equal - 2 <= len(frames) <= equal
    assert frames[0].shape[:2] == (400, 600)
    assert any((frame != frames[0]).any() for frame in frames)


def test_what_cannot_be_recorded(make_policy: MakePolicy, tmp_path: Path) -> None:
    agent = distrl.load(make_policy("CartPole-v1"))
    with pytest.raises(UserError, match=r"\.mp4 or \.gif"):
        record(agent, tmp_path / "play.avi")
    blind = distrl.load(make_policy("tests.support.envs:Vector"))
    with pytest.raises(EnvError, match="render_mode"):
        record(blind, tmp_path / "play.gif")
    assert list(tmp_path.glob("play*")) == []
