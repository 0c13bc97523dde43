"""`record`: a policy at play, as a video file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from gymnasium import Env

from distrl.base.columns import Tree
from distrl.base.errors import EnvError, UserError
from distrl.base.seeds import seed_for
from distrl.deploy.agent import Agent

SUFFIXES = (".mp4", ".gif")
#: Frames per second where the environment does not say.
DEFAULT_FPS = 30


def check_video(path: str | Path) -> None:
    """Refuse early a file that `record` could not write, or a missing package."""
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"{path} is no {' or '.join(SUFFIXES)} file.", "For example: --video play.mp4.")
    try:
        import imageio  # noqa: F401

        if Path(path).suffix == ".mp4":
            import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise UserError(f"videos need {error.name}.", "Type: pip install 'distrl[export]'") from None


def record(agent: Agent, path: str | Path, *, seed: int = 0, deterministic: bool = True) -> float:
    """Record one episode, the first of an evaluation with this seed; return its return.

    `path` ends in .mp4 or .gif; `deterministic` takes the most likely actions.
    """
    check_video(path)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory; it need not look for a screen
    try:
        env = agent.make_env(render_mode="rgb_array")
    except UserError as error:
        raise EnvError(f"no video: {error.problem}", error.fix) from None
    try:
        frames, total = _play(agent, env, seed_for(seed, "eval", 0), deterministic)
        fps = float(env.metadata.get("render_fps") or DEFAULT_FPS)
    finally:
        env.close()
    _write(Path(path), frames, fps)
    return total


def _play(agent: Agent, env: Env, seed: int, deterministic: bool) -> tuple[list[np.ndarray], float]:
    agent.reset()
    obs, info = env.reset(seed=seed)
    frames, total, over = [_image(env)], 0.0, False
    while not over:
        action = agent.act(obs, deterministic, mask=_mask(env, info))
        obs, reward, terminated, truncated, info = env.step(action)
        total, over = total + float(reward), terminated or truncated
        frames.append(_image(env))
    return frames, total


def _mask(env: Env, info: dict[str, Tree]) -> Tree:
    if "action_mask" in info:
        return info["action_mask"]
    return env.get_wrapper_attr("action_masks")() if env.has_wrapper_attr("action_masks") else None


def _image(env: Env) -> np.ndarray:
    try:
        image = np.asarray(env.render())
    except Exception as error:
        raise EnvError(f"the environment cannot draw itself: {type(error).__name__}: {error}.") from error
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise EnvError(
            f"render() gave an array of shape {image.shape}, expected (height, width, 3).",
            "The environment has to support render_mode='rgb_array'.",
        )
    height, width = image.shape[:2]
    even = np.pad(image[..., :3], ((0, height % 2), (0, width % 2), (0, 0)), "edge")  # what video codecs ask for
    return even.astype(np.uint8)


def _write(path: Path, frames: list[np.ndarray], fps: float) -> None:
    import imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        imageio.mimsave(path, frames, duration=1000.0 / fps, loop=0)  # type: ignore[arg-type]
    else:
        imageio.mimsave(path, frames, fps=fps, macro_block_size=2)  # type: ignore[call-overload,arg-type]
