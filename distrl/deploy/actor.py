"""`Actor`: a policy as one module, from raw observations to distribution parameters."""

from __future__ import annotations

import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from distrl.base.columns import Tree, tree_map
from distrl.deploy.frames import joined, no_frames, push
from distrl.deploy.policy_file import SavedPolicy


class Actor(nn.Module):
    """Frame stack, normalizer and network.

    State is a dict with `frames` (tree (B, K, ...), where frames are stacked) and `memory` (tree (B, ...), for
    recurrent policies); it is empty for policies that need neither.

    Attributes:
        space: Of the raw observations: one frame, not normalized.
        stack: Number of stacked frames; 1 for none.
        stateful: True if acting needs a state.
    """

    def __init__(self, saved: SavedPolicy):
        super().__init__()
        saved.require_environment()
        self.policy = saved.build().policy
        self.action_space: Space = saved.action_space
        self.stack = saved.config.environment.frame_stack
        frame = saved.frame_space if self.stack > 1 else None
        self.space: Space = saved.observation_space if frame is None else frame
        self.stateful = self.stack > 1 or self.policy.recurrent
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def initial_state(self, batch: int) -> dict[str, Tree]:
        """Return the state before the first step; steps with `first` ignore it."""
        state: dict[str, Tree] = {}
        if self.stack > 1:
            state["frames"] = no_frames(self.space, self.stack, batch)
        if self.policy.recurrent:
            state["memory"] = self.policy.initial_state(batch)
        return state

    def forward(self, obs: Tree, first: Tensor, state: dict[str, Tree]) -> tuple[Tensor, dict[str, Tree]]:
        """Compute distribution parameters (B, P) of raw observations (B, ...), and the next state.

        `first` (B,) marks observations that begin an episode.
        """
        after: dict[str, Tree] = {}
        if self.stack > 1:
            after["frames"] = push(state["frames"], obs, first)
            obs = joined(self.space, after["frames"])
        params, memory = self.policy(self.policy.normalize(obs), state.get("memory"), first)
        if memory is not None:
            after["memory"] = memory
        return params, after

    def mode(self, params: Tensor, mask: Tree = None) -> Tree:
        """Return the most likely actions (B, ...) in the environment's form."""
        return env_action(self.action_space, self.policy.actions.mode(params, mask))


def env_action(space: Space, action: Tree) -> Tree:
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


def to_tensors(tree: Tree) -> Tree:
    """Convert numpy leaves to tensors that share their memory."""
    return tree_map(torch.from_numpy, tree)
