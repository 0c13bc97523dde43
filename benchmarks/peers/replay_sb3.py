"""Stable-Baselines3's replay buffer; it has no priorities."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box
from replay_tools import ACTION, BATCH, BLOCK, CAPACITY, OBS, block, print_result
from replay_tools import seconds_each as each
from stable_baselines3.common.buffers import ReplayBuffer


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    spaces = Box(-np.inf, np.inf, (OBS,)), Box(-1, 1, (ACTION,))
    buffer = ReplayBuffer(CAPACITY, *spaces, device="cpu", n_envs=BLOCK, handle_timeout_termination=False)
    data = block()
    infos: list[dict[str, object]] = [{} for _ in range(BLOCK)]
    row = data["obs"], data["next_obs"], data["action"], data["reward"], data["terminated"], infos

    def insert() -> None:
        buffer.add(*row)

    for _ in range(CAPACITY // BLOCK + 100):
        insert()
    print_result(
        "sb3", ("stable-baselines3", "torch"), {"insert": each(insert), "sample": each(lambda: buffer.sample(BATCH))}
    )


if __name__ == "__main__":
    main()
