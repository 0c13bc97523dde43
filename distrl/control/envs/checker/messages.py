"""What is said about an environment that breaks its contract: which one, when, doing what, and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space

from distrl.base.errors import EnvError
from distrl.control.envs.backends.observations import mismatch
from distrl.control.envs.spaces import describe


@dataclass(slots=True)
class Where:
    """The place of a fault: environment `env` of `name` in its `step`-th step (0: its reset), doing `action`."""

    name: str
    env: int
    episode: int
    seed: int
    step: int
    action: Any = None

    def __str__(self) -> str:
        when = f"step {self.step}, action {_short(self.action)}" if self.step else "at the reset"
        return f"environment {self.env} of {self.name} (episode {self.episode}, seed {self.seed}, {when})"


def raised(where: Where, error: Exception) -> EnvError:
    """The environment raised an exception of its own."""
    return EnvError(f"{where} raised {type(error).__name__}: {error}.", _fix(where))


def bad_observation(where: Where, space: Space[Any], found: str) -> EnvError:
    """An observation of another structure, shape or dtype than the space, or with values that are not finite."""
    return EnvError(f"{where}: {found}. The observation space is {describe(space)}.", _fix(where))


def bad_reward(where: Where, reward: Any) -> EnvError:
    """A reward that is not one finite number."""
    return EnvError(f"{where}: the reward is {_short(reward)}, expected one finite number.", _fix(where))


def bad_mask(where: Where, error: Exception) -> EnvError:
    """An action mask that is missing or does not fit the action space."""
    return EnvError(f"{where}: {error}.", _fix(where))


def first_fault(
    places: Sequence[Where], space: Space[Any], observations: Sequence[Any], rewards: Sequence[Any]
) -> EnvError:
    """Look for the environment whose step spoiled a batch: the slow path, taken once."""
    for where, obs, reward in zip(places, observations, rewards, strict=True):
        if found := mismatch(space, obs):
            return bad_observation(where, space, found)
        if not is_number(reward):
            return bad_reward(where, reward)
    return EnvError(
        f"the {len(places)} observations of {places[0].name} do not fit together.",
        "Run `distrl doctor` on the environment.",
    )


def is_number(reward: Any) -> bool:
    """Whether a reward is one finite number."""
    if isinstance(reward, str | bytes) or np.ndim(reward) != 0:
        return False
    try:
        return math.isfinite(reward)
    except (TypeError, ValueError, OverflowError):
        return False


def _fix(where: Where) -> str:
    bad_action = isinstance(where.action, np.ndarray) and where.action.dtype.kind == "f"
    if bad_action and not np.isfinite(where.action).all():
        return "The action itself is not finite, so look at the policy first: learning rate, gradient clipping."
    return f"To see it alone: reset with seed {where.seed}; `distrl doctor` checks an environment before a run."


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        text = np.array2string(value, precision=4, threshold=8, separator=", ").replace("\n", "")
    else:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 120 else text[:117] + "..."
