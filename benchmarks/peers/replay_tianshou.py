"""Tianshou's vector replay buffers; priorities in a tree compiled by numba."""

from __future__ import annotations

import numpy as np
from replay_tools import ALPHA, BATCH, BETA, BLOCK, CAPACITY, block, print_result, priorities
from replay_tools import seconds_each as each
from tianshou.data import Batch, PrioritizedVectorReplayBuffer, VectorReplayBuffer


def main() -> None:
    """Measure and print."""
    data = block()
    row = Batch(
        obs=data["obs"],
        act=data["action"],
        rew=data["reward"],
        terminated=data["terminated"],
        truncated=data["truncated"],
        done=data["terminated"],
        obs_next=data["next_obs"],
        info=Batch(),
    )
    ids = np.arange(BLOCK)
    plain = VectorReplayBuffer(CAPACITY, BLOCK)
    by_error = PrioritizedVectorReplayBuffer(CAPACITY, BLOCK, alpha=ALPHA, beta=BETA)
    for _ in range(CAPACITY // BLOCK + 100):
        plain.add(row, ids)
        by_error.add(row, ids)
    new = priorities()
    for _ in range(300):
        _, index = by_error.sample(BATCH)
        by_error.update_weight(index, np.abs(np.random.standard_normal(BATCH)))  # noqa: NPY002
    seconds = {
        "insert": each(lambda: plain.add(row, ids)),
        "sample": each(lambda: plain.sample(BATCH)),
        "prioritized_sample": each(lambda: by_error.sample(BATCH)),
        "prioritized_update": each(lambda: by_error.update_weight(index, new)),
    }
    print_result("tianshou", ("tianshou", "torch", "numba"), seconds)


if __name__ == "__main__":
    main()
