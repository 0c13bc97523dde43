"""MinAtar: five Atari games on 10 x 10 cells. Young and Tian 2019. Needs `distrl[envs]`.

The package imports matplotlib, seaborn and pandas, so its game files are loaded directly.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError, unknown
from distrl.control.envs.backends.masks import Info

#: Name in an id -> name in the package. `distrl/MinAtar-Breakout-v1`, ...
GAMES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}


class MinAtar(gymnasium.Env):
    """MinAtar game with observations (10, 10, C) bool, a plane for each kind of object.

    Unlike in the package, an episode's first step does not repeat the last action of the previous episode.

    Args:
        sticky: Probability that a step repeats the previous action.
        ramping: Increase the difficulty with time.
        minimal_actions: Only the actions with an effect in this game (the package's `-v1`), else all 6 (`-v0`).
    """

    metadata: Info = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        game: str,
        sticky: float = 0.1,
        ramping: bool = True,
        minimal_actions: bool = True,
        render_mode: str | None = None,
    ):
        name = GAMES.get(game, game)
        if name not in GAMES.values():
            raise ConfigError(unknown("MinAtar game", game, GAMES))
        if not 0.0 <= sticky < 1.0:
            raise ConfigError(f"MinAtar: sticky is {sticky}.", "Expected a probability in [0, 1).")
        self.render_mode = render_mode
        self._game: Any = _module(name).Env(ramping=ramping)
        self._actions = self._game.minimal_action_set() if minimal_actions else list(range(6))
        self._sticky, self._last = float(sticky), 0
        self.action_space = Discrete(len(self._actions))
        self.observation_space = Box(0, 1, tuple(self._game.state_shape()), np.bool_)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        super().reset(seed=seed)
        if seed is not None:
            self._game.random = np.random.RandomState(seed)  # legacy, because the games call its methods
        self._last = 0
        self._game.reset()
        return self._game.state(), {}

    def step(self, action: Tree) -> tuple[Tree, float, bool, bool, Info]:
        if self._game.random.rand() >= self._sticky:
            self._last = self._actions[int(action)]
        reward, terminated = self._game.act(self._last)
        return self._game.state(), float(reward), bool(terminated), False, {}

    def render(self) -> Tree:
        """Render the planes as an image (100, 100, 3) uint8, each in its gray level."""
        planes = self._game.state()
        shade = (planes * np.linspace(0.3, 1.0, planes.shape[-1])).max(-1)
        image = np.repeat(np.repeat((255 * shade).astype(np.uint8), 10, 0), 10, 1)
        return np.repeat(image[..., None], 3, 2)


@cache
def _module(name: str) -> ModuleType:
    package = importlib.util.find_spec("minatar")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'minatar'", name="minatar")
    path = Path(package.origin).parent / "environments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"distrl_minatar_{name}", path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No file {path} in the package minatar.", name="minatar")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
