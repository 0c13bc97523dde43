"""Priorities of a replay: masses, probabilities and importance weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distrl.base.errors import ConfigError, UserError


class PriorityError(UserError):
    """A priority that is negative, infinite or not a number."""

    exit_code = 5


@dataclass(frozen=True)
class PrioritySettings:
    """Settings of prioritized replay (Schaul et al. 2016, sections 3.3 and 3.4).

    Probability is proportional to (priority + eps)^alpha; importance weights are (N P)^-beta.
    """

    alpha: float = 0.6
    beta: float = 0.4
    eps: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta), ("eps", self.eps)):
            if not 0 <= value < float("inf"):
                raise ConfigError(f"replay: priority {name} is {value}, expected 0 or more.", "Raise it.")

    def mass(self, priority: np.ndarray) -> np.ndarray:
        """Compute (priority + eps)^alpha."""
        return (priority + self.eps) ** self.alpha


def checked_priorities(priority: np.ndarray) -> np.ndarray:
    """Return priorities as float64; raise PriorityError for a negative or non-finite one."""
    priority = np.asarray(priority, np.float64)
    if len(priority) and not (priority.min() >= 0 and priority.max() < np.inf):
        bad = np.flatnonzero(~((priority >= 0) & (priority < np.inf)))
        raise PriorityError(
            f"{len(bad)} of {len(priority)} priorities are negative or not finite, the first is "
            f"{priority[bad[0]]} at {bad[0]}; expected numbers from 0 up.",
            "Priorities are absolute errors or losses: look for a loss that diverged, or a missing abs().",
        )
    return priority


def importance_weights(probability: np.ndarray, transitions: int, beta: float) -> np.ndarray:
    """Compute (N P)^-beta over its maximum, (B,) float32. Schaul et al. 2016, section 3.4."""
    weight = (transitions * probability) ** -beta
    return (weight / weight.max()).astype(np.float32)
