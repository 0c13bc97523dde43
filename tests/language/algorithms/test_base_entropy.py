"""Every language-model algorithm either has an entropy bonus or refuses one before anything is started."""

from __future__ import annotations

import pytest

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.language.algorithms.base import LanguageAlgorithm
from tests.support.text_worlds import TextWorld

NAMES = [m.name for m in register.methods("algorithm") if issubclass(m.target, LanguageAlgorithm)]
WITHOUT = ("flowrl", "one_token_rollout", "rover", "tbrm")
#: No answers to learn from, or none at first: both compute their loss as the others do.
APART = ("sft", "a_star_po")


@pytest.mark.parametrize("name", WITHOUT)
def test_a_bonus_that_a_loss_has_no_place_for_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^algorithm\.entropy_coef is 0\.01; expected at most 0"):
        TextWorld(name, entropy_coef=0.01, group_size=1)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*WITHOUT, *APART)])
def test_the_others_gradients_follow_the_bonus(name: str) -> None:
    language = {"critic_head": "scalar"} if name == "ppo_tokens" else None
    gradients = []
    for bonus in (0.0, 0.5):
        world = TextWorld(name, language=language, entropy_coef=bonus)
        gradients.append(world.gradient(world.algorithm.prepare(world.batch(0))))
    assert float((gradients[1] - gradients[0]).norm()) > 1e-3
