"""`Actor`: a policy as one module, from raw observations to distribution parameters."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from distrl.base.columns import tree_map
from distrl.deploy.frames import joined, no_frames, push
from distrl.deploy.policy_file import SavedPolicy


class Actor(nn.Module):
    """Frame stack, normalizer and network.

    State is a dict with `frames` (tree (B, K, ...), where frames are stacked) and `memory` (tree (B, ...), for
    recurrent policies); it is empty for policies that need neither.

    Args:
        saved: A policy file's content.

    Attributes:
        space: Of the raw observations: one frame, not normalized.
        stack: How many frames are stacked; 1 for none.
        stateful: Whether acting needs a state.
    """

    def __init__(self, saved: SavedPolicy):
        super().__init__()
        saved.require_environment()
        self.policy = saved.build().policy
        self.action_space: Space[Any] = saved.action_space
        self.stack = saved.config.environment.frame_stack
        self.space: Space[Any] = saved.frame_space if self.stack > 1 else saved.observation_space
        self.stateful = self.stack > 1 or self.policy.recurrent
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def initial_state(self, batch: int) -> dict[str, Any]:
        """Return the state before the first step; steps with `first` ignore it."""
        state: dict[str, Any] = {}
        if self.stack > 1:
            state["frames"] = no_frames(self.space, self.stack, batch)
        if self.policy.recurrent:
            state["memory"] = self.policy.initial_state(batch)
        return state

    def forward(self, obs: Any, first: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """One step.

        Args:
            obs: Raw observations, tree (B, ...).
            first: (B,) bool, an episode begins with this observation.
            state: Of the step before.

        Returns:
            Distribution parameters (B, P), and the next state.
        """
        after: dict[str, Any] = {}
        if self.stack > 1:
            after["frames"] = push(state["frames"], obs, first)
            obs = joined(self.space, after["frames"])
        params, memory = self.policy(self.policy.normalize(obs), state.get("memory"), first)
        if memory is not None:
            after["memory"] = memory
        return params, after

    def mode(self, params: Tensor, mask: Any = None) -> Any:
        """Return the most likely actions (B, ...) in the environment's form."""
        return env_action(self.action_space, self.policy.actions.mode(params, mask))


def env_action(space: Space[Any], action: Any) -> Any:
    """Convert a policy's actions (B, ...) to the environment's: starts added, clipped.

    The tensor form of `control.envs.backends.actions.clipper` and `joiner`.
    """
    if isinstance(space, spaces.Dict):
        return {name: env_action(child, action[name]) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(env_action(child, action[i]) for i, child in enumerate(space.spaces))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return action + torch.as_tensor(space.start, dtype=action.dtype)
    if isinstance(space, spaces.Box):
        dtype = torch.from_numpy(space.low).dtype
        return torch.minimum(torch.maximum(action.to(dtype), torch.from_numpy(space.low)), torch.from_numpy(space.high))
    return action


def to_tensors(tree: Any) -> Any:
    """Numpy leaves as tensors that share their memory."""
    return tree_map(torch.from_numpy, tree)
