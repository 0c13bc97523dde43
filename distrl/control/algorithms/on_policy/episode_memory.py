"""Whole episodes out of fragments: for objectives that are a function of an episode's return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distrl.base.columns import Columns, tree_cat, tree_map

#: Step columns that an episode keeps, where they are there.
KEPT = ("obs", "action", "reward", "params", "logp", "mask")


class EpisodeMemory:
    """Joins the fragments of each environment into episodes.

    Column b of one rollout must go on where column b of the rollout before ended (`store.max_staleness: 0`). Where a
    column restarts or an episode's beginning was not seen, the incomplete episode is dropped.
    """

    def __init__(self) -> None:
        self._open: list[Columns | None] = []
        self._done: list[Columns] = []

    def __len__(self) -> int:
        """Whole episodes."""
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
            self._add_line(
                b, _column(steps, b), ends[:, b], rollout.first[:, b], None if valid is None else valid[:, b]
            )

    def _add_line(self, b: int, steps: Columns, ends: Any, first: Any, valid: Any) -> None:
        if valid is not None:
            steps, ends, first = steps[valid], ends[valid], first[valid]
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
        """All whole episodes, each Columns (T_e, ...), in the order in which they ended line by line."""
        done, self._done = self._done, []
        return done

    def copy(self) -> EpisodeMemory:
        """The same episodes in another memory."""
        other = EpisodeMemory()
        other._open, other._done = list(self._open), list(self._done)
        return other

    def state(self) -> dict[str, Any]:
        """A state for `base.pack`."""
        own = [None if part is None else part.map(torch.clone) for part in self._open]
        return {"open": own, "done": [episode.map(torch.clone) for episode in self._done]}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """The inverse of `state`."""

        def placed(part: Any) -> Any:
            return None if part is None else part.map(lambda leaf: torch.as_tensor(leaf).to(device))

        self._open, self._done = [placed(part) for part in state["open"]], [placed(part) for part in state["done"]]


def _column(steps: Columns, b: int) -> Columns:
    # a copy: the rollout's memory is used again
    return tree_map(lambda leaf: leaf[:, b].clone(), steps)


def episode_returns(episodes: list[Columns], gamma: float) -> torch.Tensor:
    """sum gamma^t r_t of each episode, (N,)."""
    return torch.stack([_discounted(episode.reward, gamma) for episode in episodes])


def _discounted(reward: torch.Tensor, gamma: float) -> torch.Tensor:
    return reward.sum() if gamma == 1.0 else (reward * gamma ** torch.arange(len(reward)).to(reward)).sum()
