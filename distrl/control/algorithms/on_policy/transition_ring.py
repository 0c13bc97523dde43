"""A ring of transitions in an on-policy learner, for side networks that learn off-policy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distrl.base.columns import Columns, tree_map
from distrl.base.pack import State


class TransitionRing:
    """The newest `capacity` one-step transitions, with observations as the policy saw them."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.inserted = 0
        self._rows: Columns | None = None

    def __len__(self) -> int:
        return min(self.inserted, self.capacity)

    def insert(self, rollout: Columns, gamma: float) -> int:
        """Append the valid steps of a rollout (T, B) in the order of time; returns their number."""
        fresh = transitions(rollout, gamma)
        count = len(fresh.reward)
        fresh = fresh[-self.capacity :]
        first = self.inserted + count - len(fresh.reward)
        if self._rows is None:
            self._rows = fresh.map(lambda leaf: leaf.new_zeros((self.capacity, *leaf.shape[1:])))
        place = torch.arange(first, first + len(fresh.reward), device=fresh.reward.device) % self.capacity
        tree_map(lambda block, leaf: block.__setitem__(place, leaf), self._rows, fresh)
        self.inserted += count
        return count

    def sample(self, count: int, rng: np.random.Generator) -> Columns:
        """Draw transitions (N, ...) with weight 1, uniformly and with replacement."""
        assert self._rows is not None
        index = torch.from_numpy(rng.integers(0, len(self), count)).to(self._rows.reward.device)
        drawn = self._rows[index]
        return drawn.with_(weight=torch.ones_like(drawn.reward))

    def state(self) -> State:
        """Return the stored transitions: a state for `base.pack`."""
        rows = None if self._rows is None else self._rows[: len(self)].map(Tensor.clone).to_dict()
        return {"inserted": self.inserted, "rows": rows}

    def load_state(self, state: State, device: torch.device) -> None:
        """Load what `state` returned."""
        self.inserted, self._rows = int(state["inserted"]), None
        if state["rows"] is not None:
            kept = Columns(**state["rows"]).map(lambda leaf: torch.as_tensor(leaf).to(device))
            self._rows = kept.map(lambda leaf: leaf.new_zeros((self.capacity, *leaf.shape[1:])))
            tree_map(lambda block, leaf: block[: len(leaf)].copy_(leaf), self._rows, kept)


def transitions(rollout: Columns, gamma: float) -> Columns:
    """Return the valid steps of a rollout as transitions (N, ...)."""
    following = tree_map(lambda obs, last: torch.cat((obs[1:], last[None])), rollout.obs, rollout.last_obs)
    if len(rollout.final_index):
        t, b = rollout.final_index.unbind(1)
        tree_map(lambda leaf, final: leaf.__setitem__((t, b), final), following, rollout.final_obs)
    steps = rollout.only("obs", "action", "reward", "mask")
    steps = steps.with_(discount=gamma * (~rollout.terminated).float(), next_obs=following)
    if "mask" in steps:
        steps = steps.with_(next_mask=_next_masks(rollout, steps.mask))
    rows = steps.map(lambda leaf: leaf.flatten(0, 1))
    valid = rollout.get("valid")
    return rows if valid is None else rows[valid.flatten()]


def _next_masks(rollout: Columns, mask: Tensor) -> Tensor:
    """Return masks (T, B, A) of next observations; all true if unknown or after a true end."""
    last = rollout.get("last_mask")
    after = torch.cat((mask[1:], torch.ones_like(mask[:1]) if last is None else last[None]))
    after |= (rollout.terminated | rollout.truncated).unsqueeze(-1)
    final = rollout.get("final_mask")
    if final is not None and len(rollout.final_index):
        t, b = rollout.final_index.unbind(1)
        after[t, b] = final
    return after
