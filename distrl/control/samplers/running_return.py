"""Running discounted return, whose variance scales rewards."""

from __future__ import annotations

import numpy as np


def running_returns(
    reward: np.ndarray, done: np.ndarray, before: np.ndarray, ended: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compute R_t = gamma * R_{t-1} * (1 - done_{t-1}) + r_t for rewards (T, B), and the last R.

    `before` (B,) is R of the previous step, and `ended` (B,) is true if that step ended an episode.

    >>> R, last = running_returns(np.ones((3, 1)), np.array([[0], [1], [0]], bool), np.zeros(1), np.zeros(1, bool), 0.5)
    >>> R[:, 0].tolist()
    [1.0, 1.5, 1.0]
    """
    running = np.array(before, dtype=np.float64)
    ended = np.asarray(ended)
    out = np.empty(reward.shape)
    for t in range(len(reward)):
        running = np.where(ended, 0.0, gamma * running) + reward[t]
        out[t] = running
        ended = done[t]
    return out, running
