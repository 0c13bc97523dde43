"""`Signature`: an actor as a function of flat, named tensors, as exported files have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.base.errors import UserError
from distrl.control.envs.backends.masks import mask_block
from distrl.control.envs.spaces import describe, zeros
from distrl.deploy.actor import Actor, to_tensors


class Signature(nn.Module):
    """An actor's step with a batched tensor for every leaf of its trees.

    Inputs: `obs` (raw, one frame), `mask` (bool, true is allowed), `first` (bool, an episode begins), `frames` and
    `memory` (the state). A tree's leaves are called `obs.NAME`, `memory.0`. Inputs that the policy does not need are
    left out.

    Outputs: `action` (the most likely one, as the environment takes it), `params` (logits; mean and log std), and
    `next_frames`, `next_memory`.
    """

    def __init__(self, actor: Actor, masked: bool):
        super().__init__()
        self.actor = actor
        self.masked = masked
        if masked and mask_block(actor.action_space, 1) is None:
            raise UserError(f"actions of {describe(actor.action_space)} cannot be masked.", "Leave out the mask.")
        inputs = self.example(1)
        self.input_trees = inputs
        self.input_names = names_of(inputs)
        with torch.no_grad():
            self.output_trees = self._step(inputs)
        self.output_names = names_of(self.output_trees)

    def example(self, batch: int) -> dict[str, Tree]:
        """Return inputs as trees, at the beginning of an episode."""
        inputs: dict[str, Tree] = {"obs": to_tensors(zeros(self.actor.space, batch))}
        if self.masked:
            inputs["mask"] = to_tensors(mask_block(self.actor.action_space, batch))
        if self.actor.stateful:
            inputs["first"] = torch.ones(batch, dtype=torch.bool)
            inputs.update(self.actor.initial_state(batch))
        return inputs

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Compute outputs in the order of `output_names` from inputs in that of `input_names`."""
        remaining = iter(leaves)
        inputs = tree_map(lambda _: next(remaining), self.input_trees)
        return tuple(tree_leaves(self._step(inputs)))

    def _step(self, inputs: dict[str, Tree]) -> dict[str, Tree]:
        first = inputs.get("first", torch.zeros(0, dtype=torch.bool))  # not looked at by policies without a state
        params, state = self.actor(inputs["obs"], first, inputs)
        action = self.actor.mode(params, inputs.get("mask"))
        return {"action": action, "params": params, **{f"next_{name}": tree for name, tree in state.items()}}


def names_of(tree: Tree, prefix: str = "") -> list[str]:
    """Name every leaf, in order.

    >>> names_of({"obs": {"x": 0, "y": 0}, "memory": (0, 0)})
    ['obs.x', 'obs.y', 'memory.0', 'memory.1']
    """
    if isinstance(tree, dict):
        return [name for key, child in tree.items() for name in names_of(child, f"{prefix}.{key}" if prefix else key)]
    if isinstance(tree, tuple):
        return [name for i, child in enumerate(tree) for name in names_of(child, f"{prefix}.{i}")]
    return [prefix]
