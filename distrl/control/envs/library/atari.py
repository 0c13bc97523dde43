"""Atari games with the standard preprocessing. Needs `distrl[envs]`.

    env: {id: distrl/Atari-v5, kwargs: {game: Breakout}, frame_stack: 4}

or the wrapper `atari` around an ALE id made with `frameskip: 1`. Faster, without exact snapshots:

    env: {id: Breakout-v5, backend: envpool, kwargs: {reward_clip: true, episodic_life: true}}

EnvPool stacks 4 frames, skips 4, resizes to 84 x 84 and makes up to 30 no-ops (`stack_num`, `frame_skip`, `img_height`,
`noop_max`): leave `env.frame_stack` at 1. Evaluations of such a run play whole games with unclipped rewards through
this module.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError, unknown
from distrl.base.registry import register
from distrl.control.envs.backends.masks import Info
from distrl.control.envs.spaces import describe

#: Weights of red, green and blue in gray levels (ITU-R BT.601).
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
#: Time limit of half an hour at 60 frames a second. Machado et al. 2018, section 3.1.
MAX_FRAMES = 108_000


@register.wrapper(
    "atari",
    paper="Mnih et al. 2015, Human-level control through deep reinforcement learning; Machado et al. 2018, Revisiting "
    "the arcade learning environment",
)
class AtariPreprocessing(gymnasium.Wrapper):
    """Atari preprocessing: no-op starts, frame skip, maximum of two frames, gray images.

    As `gymnasium.wrappers.AtariPreprocessing`, without OpenCV. Stack frames with `env.frame_stack: 4`.

    Args:
        env: With frames (H, W) or (H, W, 3) uint8, `frameskip: 1` and `info["lives"]`.
        noop_max: An episode begins with 1 to `noop_max` no-ops; 0 for none.
        fire_reset: Press FIRE once at the start of games that wait for it.
        clip_reward: Clip rewards to their sign, in reported returns and evaluations too.
        episodic_life: A lost life terminates the episode and begins a new game (unlike in EnvPool).
    """

    def __init__(
        self,
        env: gymnasium.Env,
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
            raise ConfigError(f"atari: the environment skips frames itself ({skipped}).", "Set env.kwargs.frameskip=1.")
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

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        frame, info = self.env.reset(seed=seed, options=options)
        noops = int(self.np_random.integers(1, self._noop_max + 1)) if self._noop_max else 0
        for action in [0] * noops + [1] * self._fires:
            frame, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                frame, info = self.env.reset()
        self._lives = int(info.get("lives", 0))
        return self._image(frame), info

    def step(self, action: Tree) -> tuple[Tree, float, bool, bool, Info]:
        total, terminated, truncated = 0.0, False, False
        before: Tree = None
        last: Tree = None
        info: Info = {}
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
        # some sprites are drawn in every second frame only
        frame = last if before is None else np.maximum(before, last)
        return self._image(frame), float(np.sign(total)) if self._clip else total, terminated, truncated, info

    def _image(self, frame: np.ndarray) -> np.ndarray:
        gray = frame if frame.ndim == 2 else frame.astype(np.float32) @ LUMINANCE
        (rows, row_weights), (columns, column_weights) = self._rows, self._columns
        # weighted slices instead of a matrix product, which would start BLAS threads
        tall = sum(weight[:, None] * gray[index] for index, weight in zip(rows, row_weights, strict=True))
        flat = np.ascontiguousarray(np.asarray(tall).T)
        wide = sum(weight[:, None] * flat[index] for index, weight in zip(columns, column_weights, strict=True))
        return np.rint(np.asarray(wide).T).clip(0, 255).astype(np.uint8, order="C")


def area_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute an area resize: new = sum_k weights[k] * old[indices[k]], both (K, new).

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
    """Make `distrl/Atari-v5`; `preprocessing` are arguments of `AtariPreprocessing`.

    Args:
        sticky: Probability at every frame that the emulator repeats the previous action. Machado et al. recommend 0.25;
            most published tables use 0 with no-op starts.
        full_action_space: All 18 actions, else those that the game uses.
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
    **training: object,
) -> gymnasium.Env:
    """Make a single game with the arguments of `envpool.make`, for evaluations and checks.

    Training arguments (clipped rewards, episodes of one life, threads) are ignored on purpose.
    """
    if img_height != img_width or not gray_scale:
        raise ConfigError(
            f"EnvPool's {game} with images of {img_height}x{img_width}, gray_scale {gray_scale}: not supported in"
            " evaluations.",
            "Use square gray images.",
        )
    del training
    from distrl.control.envs.wrappers.basic import FrameStack

    options = {"frame_skip": frame_skip, "noop_max": noop_max, "size": img_height, "fire_reset": use_fire_reset}
    env = make_atari(game, repeat_action_probability, full_action_space, render_mode=render_mode, **options)
    return FrameStack(env, stack_num)


def register_envpool_game(env_id: str) -> None:
    """Register an EnvPool id such as `Breakout-v5` with gymnasium; ignore other ids."""
    from ale_py.roms import get_all_rom_ids

    game = env_id.removesuffix("-v5")
    if env_id.endswith("-v5") and _snake(game) in get_all_rom_ids():
        gymnasium.register(env_id, "distrl.control.envs.library.atari:make_envpool_atari", kwargs={"game": game})


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
