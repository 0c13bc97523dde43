"""Priorities of a replay: how they become probabilities, and importance weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PrioritySettings:
    """Prioritized replay.

    Attributes:
        alpha: Probability is proportional to (priority + eps)^alpha; 0 is uniform.
        beta: Exponent of the importance weights (N P)^-beta; 1 corrects fully. `sample(beta=...)` overrides it.
        eps: Added to priorities, so that nothing is forgotten.

    Source: Schaul et al. 2016, Prioritized Experience Replay, section 3.3 and 3.4.
    """

    alpha: float = 0.6
    beta: float = 0.4
    eps: float = 1e-6
