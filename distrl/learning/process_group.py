"""A data-parallel group of learner processes: gloo on CPUs, NCCL on GPUs.

Every process holds the whole batch; only the gradients of its logical shards are exchanged. See docs/architecture.md.
"""

from __future__ import annotations

import datetime
import socket
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from distrl.base.errors import ConfigError, ResourceError
from distrl.learning.shards import Shards, add_in_order


class GroupShards(Shards):
    """Shards spread over `world` processes: process r has shards r*n .. (r+1)*n - 1."""

    def __init__(self, count: int, rank: int, world: int):
        super().__init__(count)
        if count % world:
            raise ConfigError(
                f"learner.shards is {count}, which {world} learner.processes cannot share equally.",
                f"Use a multiple of {world}.",
            )
        each = count // world
        self.rank, self.world = rank, world
        self.mine = range(rank * each, (rank + 1) * each)

    def sum(self, parts: Sequence[Tensor]) -> Tensor:
        """Gather every shard's vector, then add them in shard order: the same bits in every process."""
        mine = torch.stack(list(parts))
        gathered = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(gathered, mine)
        return add_in_order([part for block in gathered for part in block])


def join_group(rendezvous: str, rank: int, world: int, device: torch.device, timeout: float = 120.0) -> None:
    """Join the process group at tcp://host:port, within `timeout` seconds."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, init_method=rendezvous, rank=rank, world_size=world, timeout=datetime.timedelta(seconds=timeout)
        )
    except (RuntimeError, dist.DistError) as error:
        raise ResourceError(
            f"learner process {rank} of {world} found no peers at {rendezvous} within {timeout:.0f} s: {error}",
            "Check that the learner's nodes reach each other, or set learner.processes: 1.",
        ) from error


def leave_group() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def free_address() -> str:
    """Return a loopback address with a free port, for a group on one machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
