"""The replay as processes: shards on Ray, called as a learner calls them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import ray
from gymnasium.spaces import Box
from replay_tools import ACTION, BATCH, BLOCK, CAPACITY, GAMMA, OBS, block, print_result
from replay_tools import seconds_each as each

from distrl.base.columns import Columns
from distrl.runtime.backends.replay_actors import RemoteShard, ShardActor
from distrl.runtime.backends.threads import set_threads
from distrl.store.replay.buffer import Replay
from distrl.store.replay.sharded import ReplayShard, ShardedReplay

SHARDS, STEPS = 2, 16
#: Fragments of one update, as a learner with eight streams takes them.
FRAGMENTS = 8
#: Batches of one request where a learner owes several gradient steps: rows are drawn independently either way.
TOGETHER = 16


class BareShard(ShardActor):
    """A shard's process without a run around it."""

    def __init__(self, capacity: int):
        set_threads(1)
        spaces = Box(-np.inf, np.inf, (OBS,)), Box(-1, 1, (ACTION,))
        self.shard = ReplayShard(Replay(*spaces, capacity, SHARDS * BLOCK))


def fragment() -> Columns:
    """STEPS steps of BLOCK environments: what a stream hands over at once."""
    data = block()
    steps = {name: np.repeat(data[name][None], STEPS, 0) for name in ("obs", "action", "reward")}
    nothing = np.zeros((STEPS, BLOCK), bool)
    return Columns(
        **steps,
        terminated=nothing,
        truncated=nothing,
        first=nothing,
        last_obs=data["next_obs"],
        final_obs=np.zeros((0, OBS), np.float32),
        final_index=np.zeros((0, 2), np.int64),
    )


def main() -> None:
    """Measure and print."""
    ray.init(address="local", num_cpus=SHARDS, include_dashboard=False, log_to_driver=False, logging_level="error")
    actors = [ray.remote(num_cpus=1)(BareShard).remote(CAPACITY // SHARDS) for _ in range(SHARDS)]
    replay = ShardedReplay([RemoteShard(actor) for actor in actors])
    rollout, rng, state = fragment(), np.random.default_rng(0), SimpleNamespace(stream=0)

    def insert() -> None:
        """The fragments of an update: all sent, then all there."""
        for _ in range(FRAGMENTS):
            state.stream = (state.stream + 1) % SHARDS
            replay.insert(rollout, state.stream)
        len(replay)

    for _ in range(CAPACITY // (BLOCK * STEPS * FRAGMENTS) + 10):
        insert()
    seconds = {
        "insert_one": each(insert) / (BLOCK * STEPS * FRAGMENTS),
        "remote_sample": each(lambda: replay.sample(BATCH, rng, GAMMA)),
        "remote_together": each(lambda: replay.sample(TOGETHER * BATCH, rng, GAMMA)) / TOGETHER,
    }
    ray.shutdown()
    print_result("shards", ("ray",), seconds)


if __name__ == "__main__":
    main()
