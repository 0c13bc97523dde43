"""TorchRL's tensor-dict replay buffer in memory; its priorities cannot be imported with this torch."""

from __future__ import annotations

import torch
from replay_tools import BATCH, BLOCK, CAPACITY, block, print_result
from replay_tools import seconds_each as each
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    row = TensorDict({name: torch.from_numpy(value) for name, value in block().items()}, batch_size=[BLOCK])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=BATCH)
    for _ in range(CAPACITY // BLOCK + 100):
        buffer.extend(row)
    print_result(
        "torchrl",
        ("torchrl", "tensordict", "torch"),
        {"insert": each(lambda: buffer.extend(row)), "sample": each(buffer.sample)},
    )


if __name__ == "__main__":
    main()
