"""Error messages for environments that violate the Gymnasium API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space

from distrl.base.columns import Tree
from distrl.base.errors import EnvError
from distrl.control.envs.backends.observations import mismatch
from distrl.control.envs.spaces import describe


@dataclass(slots=True)
class Place:
    """Environment, episode and step (0: the reset) of an error."""

    name: str
    env: int
    episode: int
    seed: int
    step: int
    action: Tree | None = None

    def __str__(self) -> str:
        when = f"step {self.step}, action {_short(self.action)}" if self.step else "at the reset"
        return f"environment {self.env} of {self.name} (episode {self.episode}, seed {self.seed}, {when})"


def raised(place: Place, error: Exception) -> EnvError:
    """Make the error for an exception of the environment."""
    return EnvError(f"{place} raised {type(error).__name__}: {error}.", _fix(place))


def bad_observation(place: Place, space: Space, found: str) -> EnvError:
    """Make the error for an observation outside its space or not finite."""
    return EnvError(f"{place}: {found}. The observation space is {describe(space)}.", _fix(place))


def bad_mask(place: Place, error: Exception) -> EnvError:
    """Make the error for a missing or malformed action mask."""
    return EnvError(f"{place}: {error}.", _fix(place))


def first_fault(
    places: Sequence[Place], space: Space, observations: Sequence[Tree], rewards: Sequence[object]
) -> EnvError:
    """Make the error for the environment whose step invalidated a batch."""
    for place, obs, reward in zip(places, observations, rewards, strict=True):
        if found := mismatch(space, obs):
            return bad_observation(place, space, found)
        if not is_number(reward):
            return EnvError(f"{place}: the reward is {_short(reward)}, expected one finite number.", _fix(place))
    return EnvError(
        f"the {len(places)} observations of {places[0].name} do not fit together.",
        "Run `distrl doctor` on the environment.",
    )


def is_number(reward: Any) -> bool:
    """Return True for one finite number."""
    if isinstance(reward, str | bytes) or np.ndim(reward) != 0:
        return False
    try:
        return math.isfinite(reward)
    except (TypeError, ValueError, OverflowError):
        return False


def _fix(place: Place) -> str:
    bad_action = isinstance(place.action, np.ndarray) and place.action.dtype.kind == "f"
    if bad_action and not np.isfinite(np.asarray(place.action)).all():
        return "The action itself is not finite, so look at the policy first: learning rate, gradient clipping."
    return f"To see it alone: reset with seed {place.seed}; `distrl doctor` checks an environment before a run."


def _short(value: object) -> str:
    if isinstance(value, np.ndarray):
        text = np.array2string(value, precision=4, threshold=8, separator=", ").replace("\n", "")
    else:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 120 else text[:117] + "..."
