"""Interface of vector environments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gymnasium
import numpy as np

from distrl.base.columns import Tree

#: (environment index, episode number) -> seed of that episode.
SeedOf = Callable[[int, int], int]


@dataclass(slots=True)
class EpisodeEnd:
    """Finished episode: undiscounted return of raw rewards, length in environment steps."""

    env: int
    episode: int
    seed: int
    return_: float
    length: int


@dataclass(slots=True)
class Step:
    """Result of one vector step. Flag arrays may be shared between steps and read-only."""

    reward: np.ndarray  # (B,) float64, raw
    terminated: np.ndarray  # (B,) bool; where both are true, termination wins
    truncated: np.ndarray
    valid: np.ndarray | None  # (B,) bool, False at reset steps; None from backends without reset steps
    finals: list[tuple[int, Tree]]  # (environment index, true last observation) of every environment that ended
    episodes: list[EpisodeEnd]
    channels: np.ndarray | None = None  # (B, K) float64 reward channels of environments that report them
    final_masks: list[Tree] | None = None  # action masks (A,) of `finals`; None for environments without masks


class VectorEnv(Protocol):
    """B environments that step together.

    Discrete actions are zero-based; Box actions are clipped. `obs`, `first` and `mask` are overwritten by `step`. With
    `reset_steps`, the step after an end is spent on the reset (gymnasium's `AutoresetMode.NEXT_STEP`).
    """

    num_envs: int
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    can_snapshot: bool
    reset_steps: bool
    obs: Tree
    first: np.ndarray
    mask: Tree | None

    def reset(self) -> None:
        """Reset every environment into its next episode."""

    def step(self, action: Tree) -> Step:
        """Step every environment with actions (B, ...)."""

    def snapshot(self) -> dict[str, Tree]:
        """Return the state that `restore` continues from bit for bit."""

    def restore(self, state: dict[str, Tree]) -> None:
        """Restore a snapshot."""

    def close(self) -> None:
        """Release the environments."""
