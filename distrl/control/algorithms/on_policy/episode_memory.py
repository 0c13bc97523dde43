"""Whole episodes out of fragments, for objectives of an episode's return."""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.columns import Columns, tree_cat
from distrl.base.pack import State

#: Step columns that an episode keeps, where they are there.
KEPT = ("obs", "action", "reward", "params", "logp", "mask")


class EpisodeMemory:
    """Episodes joined from the fragments of each environment.

    Column b of a rollout must continue column b of the rollout before (`store.max_staleness: 0`). An episode without
    its beginning or end is dropped.
    """

    def __init__(self) -> None:
        self._open: list[Columns | None] = []
        self._done: list[Columns] = []

    def __len__(self) -> int:
        """Count whole episodes."""
        return len(self._done)

    def add(self, rollout: Columns) -> None:
        """Append the steps of a rollout (T, B), without reset steps."""
        steps = rollout.only(*KEPT)
        lines = rollout.reward.shape[1]
        if len(self._open) != lines:
            self._open = [None] * lines
        ends = rollout.terminated | rollout.truncated
        valid = rollout.get("valid")
        for b in range(lines):
            rows = slice(None) if valid is None else valid[:, b]
            # a copy: the rollout's memory is used again
            line = steps[:, b].map(torch.clone)[rows]
            self._add_line(b, line, ends[rows, b], rollout.first[rows, b])

    def _add_line(self, b: int, steps: Columns, ends: Tensor, first: Tensor) -> None:
        start = 0
        for stop in [*(ends.nonzero().flatten() + 1).tolist(), len(ends)]:
            if stop == start:
                continue
            piece, before = steps[start:stop], self._open[b]
            if bool(first[start]):
                before = None
            elif before is None:  # the middle of an episode whose beginning is not here
                start = stop
                continue
            whole = piece if before is None else tree_cat([before, piece])
            if bool(ends[stop - 1]):
                self._done.append(whole)
                self._open[b] = None
            else:
                self._open[b] = whole
            start = stop

    def take(self) -> list[Columns]:
        """Remove and return all whole episodes, each Columns (T_e, ...), in order."""
        done, self._done = self._done, []
        return done

    def copy(self) -> EpisodeMemory:
        """Copy the episodes to another memory."""
        other = EpisodeMemory()
        other._open, other._done = list(self._open), list(self._done)
        return other

    def state(self) -> State:
        """Return a state for `base.pack`."""
        own = [None if part is None else part.map(torch.clone) for part in self._open]
        return {"open": own, "done": [episode.map(torch.clone) for episode in self._done]}

    def load_state(self, state: State, device: torch.device) -> None:
        """Load what `state` returned."""

        def placed(part: Columns) -> Columns:
            return part.map(lambda leaf: torch.as_tensor(leaf).to(device))

        self._open = [None if part is None else placed(part) for part in state["open"]]
        self._done = [placed(part) for part in state["done"]]


def episode_returns(episodes: list[Columns], gamma: float) -> torch.Tensor:
    """Return sum gamma^t r_t of each episode, (N,)."""
    rewards = [episode.reward for episode in episodes]
    if gamma == 1.0:
        return torch.stack([reward.sum() for reward in rewards])
    return torch.stack([(reward * gamma ** torch.arange(len(reward)).to(reward)).sum() for reward in rewards])
