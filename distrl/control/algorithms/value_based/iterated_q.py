"""Iterated Q-network: several Bellman backups learned at once, in a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.control.algorithms.value_based.dqn import DQN, DQNConfig
from distrl.control.models.q_network import QPolicy
from distrl.learning.algorithm import Update
from distrl.models.parameters.trained import TrainedModule


class IteratedConfig(DQNConfig):
    """Keys of `dqn`; `target_interval` is the period T of the shift."""

    iterations: int = Field(5, ge=1)
    """Networks in the chain, K: Bellman backups learned at once. Usual: 2-5."""
    sync_interval: int = Field(30, ge=1)
    """Gradient steps D between two refreshes inside the chain. Usual: 1-30, far below target_interval."""
    target_interval: int = Field(1000, ge=1)
    """Gradient steps T between two shifts of the chain. Usual: 500-8000."""
    acting: Literal["uniform", "last"] = "uniform"
    """The acting network: any one, redrawn for each published version, or the one furthest ahead."""


class IteratedModel(nn.Module):
    """A chain of networks Q_1 ... Q_K, and the acting network: a copy of one of them."""

    def __init__(self, policy: QPolicy, chain: list[QPolicy]):
        super().__init__()
        self.policy = policy
        self.chain = nn.ModuleList(chain)


@register.algorithm("iterated_q", paper="Iterated Q-Network, Vincent et al. 2025", entries=[34])
class IteratedQN(DQN):
    """Chain of K networks, each learning a backup of the one before it. Vincent et al. 2025.

    Loss: sum_k (r + discount * max Q'_{k-1}(s', .) - Q_k(s, a))^2, with any head.
    """

    Config = IteratedConfig

    @classmethod
    def make_model(cls, make_policy: Callable[[], QPolicy], config: IteratedConfig) -> nn.Module:  # type: ignore[override]
        chain = [make_policy() for _ in range(config.iterations)]
        return IteratedModel(make_policy(), chain)

    def make_modules(self) -> dict[str, TrainedModule]:
        trained = TrainedModule(self.model.chain, target=True, eps=self.config.adam_eps)
        assert trained.target_flat is not None
        self.chain, self.targets = list(self.model.chain), list(trained.target)
        self.target = self.targets[-1]
        self._read_config()
        count = self.config.iterations
        self.online_rows, self.target_rows = trained.flat.data.view(count, -1), trained.target_flat.data.view(count, -1)
        sync_chain(self.online_rows, self.target_rows)
        return {"chain": trained}

    def set_exploration(self, rng: np.random.Generator) -> None:
        chosen = int(rng.integers(len(self.chain))) if self.config.acting == "uniform" else -1
        with torch.no_grad():
            for mine, theirs in zip(self.policy.parameters(), self.chain[chosen].parameters(), strict=True):
                mine.copy_(theirs)
        super().set_exploration(rng)

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        losses: list[Tensor] = []
        priorities: Tensor | None = None
        for online, target in zip(self.chain, self.targets, strict=True):
            if self.policy.noisy:
                online.redraw_noise(rng)
                target.redraw_noise(rng)
            row_loss, priorities = self.row_loss(batch, rng, online, target)
            losses.append((row_loss * batch.weight).mean())
        loss = torch.stack(losses).sum()
        self.minimize("chain", loss)
        self.move_targets()
        return Update({"loss/critic": loss.detach() / len(losses)}, priorities)

    def move_targets(self) -> None:
        self.gradient_steps += 1
        if self.gradient_steps % self.config.target_interval == 0:
            shift_chain(self.online_rows, self.target_rows)
        elif self.gradient_steps % self.config.sync_interval == 0:
            sync_chain(self.online_rows, self.target_rows)

    def sync_targets(self) -> None:
        """Copy the loaded policy to every network."""
        with torch.no_grad():
            for network in self.chain:
                for theirs, mine in zip(network.parameters(), self.policy.parameters(), strict=True):
                    theirs.copy_(mine)
        self.target_rows.copy_(self.online_rows)


@torch.no_grad()
def sync_chain(online: Tensor, targets: Tensor) -> None:
    """Set Q'_k <- Q_k for k = 1 .. K - 1, in place; the start of the chain, Q'_0, stays.

    `online` are Q_1 .. Q_K, `targets` Q'_0 .. Q'_{K-1}, both (K, size).
    """
    targets[1:] = online[:-1]


@torch.no_grad()
def shift_chain(online: Tensor, targets: Tensor) -> None:
    """Shift the chain by one backup, in place: Q'_k <- Q_{k+1} for all k, then Q_k <- Q_{k+1} for k < K; Q_K stays."""
    targets.copy_(online)
    online[:-1] = online[1:].clone()
