"""cpprb: replay buffers in C++."""

from __future__ import annotations

import numpy as np
from cpprb import PrioritizedReplayBuffer, ReplayBuffer
from replay_tools import ACTION, ALPHA, BATCH, BETA, BLOCK, CAPACITY, OBS, block, print_result, priorities
from replay_tools import seconds_each as each


def main() -> None:
    """Measure and print."""
    columns = {
        "obs": {"shape": OBS},
        "next_obs": {"shape": OBS},
        "action": {"shape": ACTION},
        "reward": {},
        "terminated": {"dtype": np.bool_},
        "truncated": {"dtype": np.bool_},
    }
    data = block()
    plain = ReplayBuffer(CAPACITY, columns)
    by_error = PrioritizedReplayBuffer(CAPACITY, columns, alpha=ALPHA)
    for _ in range(CAPACITY // BLOCK + 100):
        plain.add(**data)
        by_error.add(**data)
    new = priorities()
    rng = np.random.default_rng(0)
    for _ in range(300):
        index = by_error.sample(BATCH, BETA)["indexes"]
        by_error.update_priorities(index, np.abs(rng.standard_normal(BATCH)))
    seconds = {
        "insert": each(lambda: plain.add(**data)),
        "sample": each(lambda: plain.sample(BATCH)),
        "prioritized_sample": each(lambda: by_error.sample(BATCH, BETA)),
        "prioritized_update": each(lambda: by_error.update_priorities(index, new)),
    }
    print_result("cpprb", ("cpprb",), seconds)


if __name__ == "__main__":
    main()
