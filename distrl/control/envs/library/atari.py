"""Atari games with the field's preprocessing, through gymnasium and the ALE. Needs `distrl[envs]`.

    env: {id: distrl/Atari-v5, kwargs: {game: Breakout}, frame_stack: 4}

or the wrapper `atari` around an ALE id that was made with `frameskip: 1`. Faster, without exact snapshots:

    env: {id: Breakout-v5, backend: envpool, kwargs: {reward_clip: true, episodic_life: true}}

EnvPool stacks 4 frames, skips 4, resizes to 84 x 84 and takes up to 30 no-ops by itself (`stack_num`, `frame_skip`,
`img_height`, `noop_max`; sticky actions are `repeat_action_probability`). Leave `env.frame_stack` at 1 there.
Evaluations of such a run play the same game here, whole and with its true rewards.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from distrl.base.errors import ConfigError, unknown
from distrl.base.registry import register
from distrl.control.envs.spaces import describe

#: Red, green and blue in a gray. ITU-R BT.601.
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
#: Half an hour of play at 60 frames a second: where games are cut off. Machado et al. 2018, section 3.1.
MAX_FRAMES = 108_000


@register.wrapper(
    "atari",
    paper="Mnih et al. 2015, Human-level control through deep reinforcement learning; Machado et al. 2018, Revisiting "
    "the arcade learning environment",
)
class AtariPreprocessing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """No-op starts, frame skip with the larger of the last two frames, gray 84 x 84 pictures.

    Stack frames with `env.frame_stack: 4`. An episode stays a function of its seed and actions; therefore a lost life
    that ends the episode begins a new game (as in gymnasium), where EnvPool and OpenAI's wrappers play on.

    Args:
        env: Gives frames (H, W) or (H, W, 3) uint8 one at a time (`frameskip: 1`), and `info["lives"]`.
        frame_skip: Frames that an action lasts; their rewards are added.
        noop_max: An episode begins with 1 to so many no-ops; 0 for none.
        size: Side of the square picture.
        fire_reset: Press FIRE once at the start in games that have it: they wait for it.
        clip_reward: Give the sign of the reward only. Reported returns, also those of evaluations, are then clipped
            ones, so it is off unless asked for.
        episodic_life: A lost life terminates the episode.

    Raises:
        ConfigError: The environment gives no frames, or skips some by itself.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        frame_skip: int = 4,
        noop_max: int = 30,
        size: int = 84,
        fire_reset: bool = True,
        clip_reward: bool = False,
        episodic_life: bool = False,
    ):
        super().__init__(env)
        space = env.observation_space
        frames = isinstance(space, Box) and space.dtype == np.uint8
        if not frames or not (len(space.shape or ()) == 2 or (space.shape or ())[2:] == (3,)):
            raise ConfigError(f"atari: needs frames (H, W) or (H, W, 3) of uint8, not {describe(space)}.")
        skipped = getattr(env.unwrapped, "_frameskip", 1)
        if skipped != 1:
            raise ConfigError(
                f"atari: the environment skips frames by itself ({skipped}).", "Set env.kwargs.frameskip=1."
            )
        if frame_skip < 1 or noop_max < 0 or size < 1:
            raise ConfigError(f"atari: frame_skip {frame_skip}, noop_max {noop_max}, size {size}.")
        meanings: list[str] = getattr(env.unwrapped, "get_action_meanings", list)()
        self._fires = fire_reset and "FIRE" in meanings[1:2]
        self._skip, self._noop_max = int(frame_skip), int(noop_max)
        self._clip, self._episodic_life = bool(clip_reward), bool(episodic_life)
        height, width = (space.shape or ())[:2]
        self._rows, self._columns = area_taps(height, size), area_taps(width, size)
        self._lives = 0
        self.observation_space = Box(0, 255, (size, size), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        frame, info = self.env.reset(seed=seed, options=options)
        noops = int(self.np_random.integers(1, self._noop_max + 1)) if self._noop_max else 0
        for action in [0] * noops + [1] * self._fires:
            frame, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                frame, info = self.env.reset()
        self._lives = int(info.get("lives", 0))
        return self._picture(frame), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total, terminated, truncated = 0.0, False, False
        before: Any = None
        last: Any = None
        info: dict[str, Any] = {}
        for _ in range(self._skip):
            before = last
            last, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        lives = int(info.get("lives", 0))
        if self._episodic_life and lives < self._lives:
            terminated = True
        self._lives = lives
        # sprites that are drawn in every second frame only
        frame = last if before is None else np.maximum(before, last)
        return self._picture(frame), float(np.sign(total)) if self._clip else total, terminated, truncated, info

    def _picture(self, frame: np.ndarray) -> np.ndarray:
        gray = frame if frame.ndim == 2 else frame.astype(np.float32) @ LUMINANCE
        (rows, row_weights), (columns, column_weights) = self._rows, self._columns
        # a few weighted slices: no matrix product, which would wake up BLAS threads for so little
        tall = sum(weight[:, None] * gray[index] for index, weight in zip(rows, row_weights, strict=True))
        flat = np.ascontiguousarray(np.asarray(tall).T)
        wide = sum(weight[:, None] * flat[index] for index, weight in zip(columns, column_weights, strict=True))
        return np.rint(np.asarray(wide).T).clip(0, 255).astype(np.uint8, order="C")


def area_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """How to resize a line of pixels so that each new one is the mean over what it covers.

    Args:
        old: Pixels before.
        new: Pixels after.

    Returns:
        Indices of old pixels (K, new) and their weights (K, new) float32: new = sum_k weights[k] * old[indices[k]].

    >>> indices, weights = area_taps(3, 2)
    >>> indices.tolist(), weights.round(2).tolist()
    ([[0, 1], [1, 2]], [[0.6700000166893005, 0.33000001311302185], [0.33000001311302185, 0.6700000166893005]])
    """
    edges = np.arange(new + 1) * old / new
    first = np.floor(edges[:-1] + 1e-9).astype(np.int64)
    taps = int((np.ceil(edges[1:] - 1e-9) - first).max())
    index = first + np.arange(taps)[:, None]
    overlap = np.minimum(edges[1:], index + 1) - np.maximum(edges[:-1], index)
    return index.clip(max=old - 1), (overlap.clip(0.0) * (new / old)).astype(np.float32)


def make_atari(
    game: str,
    sticky: float = 0.0,
    full_action_space: bool = False,
    max_frames: int = MAX_FRAMES,
    render_mode: str | None = None,
    **preprocessing: Any,
) -> AtariPreprocessing:
    """Entry point of `distrl/Atari-v5`.

    Args:
        game: `Breakout`, `space_invaders`, ...
        sticky: Probability, at every frame, that the emulator repeats the action before. Machado et al. recommend 0.25;
            most published tables use 0 with no-op starts.
        full_action_space: All 18 actions, else those that the game knows.
        max_frames: Frames after which a game is truncated.
        render_mode: `rgb_array`, `human` or None.
        preprocessing: Arguments of `AtariPreprocessing`.

    Raises:
        ConfigError: No such game.
        ModuleNotFoundError: ale-py is not installed.
    """
    import ale_py
    from ale_py.env import AtariEnv
    from ale_py.roms import get_all_rom_ids

    name = _snake(game)
    if name not in get_all_rom_ids():
        raise ConfigError(unknown("Atari game", name, get_all_rom_ids()))
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    env = AtariEnv(
        game=name,
        obs_type="grayscale",
        frameskip=1,
        repeat_action_probability=sticky,
        full_action_space=full_action_space,
        max_num_frames_per_episode=max_frames,
        render_mode=render_mode,  # type: ignore[arg-type]
    )
    return AtariPreprocessing(env, **preprocessing)


def make_envpool_atari(
    game: str,
    stack_num: int = 4,
    frame_skip: int = 4,
    noop_max: int = 30,
    img_height: int = 84,
    img_width: int = 84,
    gray_scale: bool = True,
    use_fire_reset: bool = True,
    repeat_action_probability: float = 0.0,
    full_action_space: bool = False,
    render_mode: str | None = None,
    **training: Any,
) -> gymnasium.Env[Any, Any]:
    """One game as EnvPool would play it, under EnvPool's names: for evaluations and checks, which play single games.

    Args:
        game: As for `make_atari`.
        stack_num, frame_skip, noop_max, img_height, img_width, gray_scale, use_fire_reset, repeat_action_probability,
            full_action_space: As for `envpool.make`.
        render_mode: As for `make_atari`.
        training: What is left out on purpose: clipped rewards, episodes of one life, threads.

    Raises:
        ConfigError: Pictures in color, or not square.
    """
    if img_height != img_width or not gray_scale:
        raise ConfigError(
            f"EnvPool's {game} with pictures of {img_height}x{img_width}, gray_scale {gray_scale}: evaluations cannot"
            " make these.",
            "Use square gray pictures.",
        )
    del training
    from distrl.control.envs.wrappers.basic import FrameStack

    options = {"frame_skip": frame_skip, "noop_max": noop_max, "size": img_height, "fire_reset": use_fire_reset}
    env = make_atari(game, repeat_action_probability, full_action_space, render_mode=render_mode, **options)
    return FrameStack(env, stack_num)


def register_envpool_game(env_id: str) -> None:
    """Let gymnasium know an id of EnvPool's Atari games, such as `Breakout-v5`; other ids are left alone."""
    from ale_py.roms import get_all_rom_ids

    game = env_id.removesuffix("-v5")
    if env_id.endswith("-v5") and _snake(game) in get_all_rom_ids():
        gymnasium.register(env_id, "distrl.control.envs.library.atari:make_envpool_atari", kwargs={"game": game})


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
