"""Running mean and variance in float64, merged batch by batch. Chan, Golub and LeVeque 1979.

Samplers send the moments of each fragment; only the learner merges them, in (sequence, stream) order, so that the
statistics do not depend on the order of arrival.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distrl.base.pack import State

PRIOR_COUNT = 1e-4  # weight of the prior (mean 0, variance 1) that running moments start from


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and sum of squared distances from the mean."""

    count: float  # the prior weighs less than one value
    mean: np.ndarray  # (...) float64, one per feature
    m2: np.ndarray  # (...) float64, sum of (x - mean)^2

    @classmethod
    def prior(cls, shape: tuple[int, ...] = ()) -> Moments:
        """Return the initial moments; without a shape they broadcast to the first batch."""
        return cls(PRIOR_COUNT, np.zeros(shape), np.full(shape, PRIOR_COUNT))

    @classmethod
    def of(cls, array: np.ndarray, mask: np.ndarray | None = None, leading: int = 2) -> Moments:
        """Compute the moments of one batch (T, B, ...), per trailing feature; `mask` selects rows."""
        array = np.asarray(array)
        rows = array.reshape(-1, *array.shape[leading:]) if mask is None else array[np.asarray(mask, bool)]
        if len(rows) == 0:
            return cls(0.0, np.zeros(rows.shape[1:]), np.zeros(rows.shape[1:]))
        mean = rows.mean(axis=0, dtype=np.float64)
        return cls(float(len(rows)), np.asarray(mean), np.asarray(np.square(rows - mean).sum(axis=0)))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of values; bit-equal for equal calls in equal order."""
        count = self.count + other.count
        if other.count == 0 or count == 0:
            return self
        distance = other.mean - self.mean
        mean = self.mean + distance * (other.count / count)
        m2 = self.m2 + other.m2 + np.square(distance) * (self.count * other.count / count)
        return Moments(count, np.asarray(mean), np.asarray(m2))

    @property
    def var(self) -> np.ndarray:
        """(...) variance with denominator `count`; ones if nothing was counted."""
        return np.asarray(self.m2 / self.count) if self.count > 0 else np.ones_like(self.mean)

    def to_state(self) -> State:
        return {"count": self.count, "mean": self.mean.copy(), "m2": self.m2.copy()}

    @classmethod
    def from_state(cls, state: State) -> Moments:
        mean, m2 = (np.array(state[key], dtype=np.float64) for key in ("mean", "m2"))
        return cls(float(state["count"]), mean, m2)
