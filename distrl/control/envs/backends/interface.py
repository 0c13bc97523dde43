"""The face that every environment back end shows to samplers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

#: seed_of(env_index, episode_number) -> the seed of that episode.
SeedOf = Callable[[int, int], int]


@dataclass(slots=True)
class EpisodeEnd:
    """One finished episode: undiscounted return of raw rewards, length in environment steps."""

    env: int
    episode: int
    seed: int
    return_: float
    length: int


@dataclass(slots=True)
class Step:
    """What one vector step gave.

    The flag arrays may be shared between steps and read-only: copy what you keep.

    Args:
        reward: (B,) float64, raw.
        terminated: (B,) bool, a true end.
        truncated: (B,) bool, a time limit. Where both hold, termination wins.
        valid: (B,) bool from back ends that burn steps, else None: every step counts.
        finals: (environment index, true last observation) of every environment that ended.
        episodes: one record for every environment that ended.
        channels: (B, K) float64, the reward's K channels, where the environment tells them apart.
        final_masks: For each of `finals` the mask of that observation, a tree (A,) of bool; None where there are no
            masks. All true after a true end, and where the environment does not tell.
    """

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray | None
    finals: list[tuple[int, Any]]
    episodes: list[EpisodeEnd]
    channels: np.ndarray | None = None
    final_masks: list[Any] | None = None


class VectorEnv(Protocol):
    """B environments that step together.

    Discrete actions are zero-based indices, whatever the space's `start`; Box actions are clipped to the space.
    `obs`, `first` and `mask` belong to the VectorEnv and are overwritten by `step`: copy what you keep.
    """

    num_envs: int
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    can_snapshot: bool
    burns_steps: bool
    obs: Any
    first: np.ndarray
    mask: Any

    def reset(self) -> None:
        """Every environment begins its next episode."""

    def step(self, action: Any) -> Step:
        """Step every environment. `action`: tree (B, ...)."""

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs to continue bit-equally: plain dicts and arrays."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a snapshot."""

    def close(self) -> None:
        """Free what the environments hold."""
