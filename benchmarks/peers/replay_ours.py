"""Our replay, with priorities in numpy and compiled."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box
from replay_tools import ACTION, ALPHA, BATCH, BETA, BLOCK, CAPACITY, GAMMA, OBS, block, print_result, priorities
from replay_tools import seconds_each as each

from distrl.base.columns import Columns
from distrl.store.replay.buffer import Replay
from distrl.store.replay.priorities import PrioritySettings
from distrl.store.replay.sum_tree import SumTree

SPACES = Box(-np.inf, np.inf, (OBS,)), Box(-1, 1, (ACTION,))


def fragment() -> Columns:
    """The block as a sampler gives it: one step of BLOCK environments."""
    data = block()
    steps = {name: data[name][None] for name in ("obs", "action", "reward", "terminated", "truncated")}
    return Columns(
        **steps,
        first=np.zeros((1, BLOCK), bool),
        last_obs=data["next_obs"],
        final_obs=np.zeros((0, OBS), np.float32),
        final_index=np.zeros((0, 2), np.int64),
    )


def prioritized(compiled: bool) -> dict[str, float]:
    """Seconds of a draw and of an update."""
    replay = Replay(*SPACES, CAPACITY, BLOCK, prioritized=PrioritySettings(ALPHA, BETA))
    replay.rows.tree = SumTree(replay.rows.ring.rows, compiled)
    full(replay)
    rng = np.random.default_rng(0)
    batch, new = replay.sample(BATCH, rng, GAMMA), priorities()
    for _ in range(300):
        batch = replay.sample(BATCH, rng, GAMMA)
        replay.update_priorities(batch.index, batch.generation, np.abs(rng.standard_normal(BATCH)))
    word = "compiled" if compiled else "prioritized"
    return {
        f"{word}_sample": each(lambda: replay.sample(BATCH, rng, GAMMA)),
        f"{word}_update": each(lambda: replay.update_priorities(batch.index, batch.generation, new)),
    }


def full(replay: Replay) -> None:
    """Insert until the oldest is evicted."""
    rollout = fragment()
    for _ in range(CAPACITY // BLOCK + 100):
        replay.insert(rollout, 0)


def main() -> None:
    """Measure and print."""
    rng = np.random.default_rng(0)
    replay = Replay(*SPACES, CAPACITY, BLOCK)
    full(replay)
    rollout = fragment()
    seconds = {
        "insert": each(lambda: replay.insert(rollout, 0)),
        "sample": each(lambda: replay.sample(BATCH, rng, GAMMA)),
        **prioritized(False),
    }
    if SumTree(1).is_compiled:
        seconds |= prioritized(True)
    print_result("ours", (), seconds)


if __name__ == "__main__":
    main()
