"""`load` and `Agent`: a trained policy that acts in anybody's loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Env, Space
from numpy.typing import ArrayLike

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.base.errors import UserError
from distrl.base.registry import import_user_code
from distrl.control.envs.backends.actions import clipper, joiner, splitter
from distrl.control.envs.backends.masks import mask_block, write_mask
from distrl.control.envs.make import make_env
from distrl.control.envs.spaces import describe, leaf_dtype, zeros
from distrl.deploy.actor import Actor, to_tensors
from distrl.deploy.policy_file import SavedPolicy


def load(path: str | Path, *, seed: int = 0) -> Agent:
    """Load a trained policy, ready to act.

    Args:
        path: A run folder (its best policy, else its newest), a checkpoint folder, or a `policy.safetensors`.
        seed: Of the actions drawn with `deterministic=False`.
    """
    return Agent(SavedPolicy.read(path), seed=seed)


class Agent:
    """A policy with its normalizer, frame stack and memory.

    Works on one observation or on a batch of them; `act` tells them apart by their shapes. Recurrent and frame-stacking
    policies remember the steps before: call `reset()` when an episode begins, or give `first`.

    Attributes:
        observation_space, action_space: Input (one frame, where frames are stacked) and output of `act`.
        config: Of the run that trained the policy.
        facts: Origin of the policy: run, update, env_steps.
    """

    def __init__(self, saved: SavedPolicy, seed: int = 0):
        import_user_code(saved.config.imports)
        self.actor = Actor(saved)
        self.config, self.facts = saved.config, saved.facts
        self.observation_space, self.action_space = self.actor.space, saved.action_space
        self._rng = np.random.default_rng(seed)
        self._clip = clipper(saved.action_space)
        self._split, self._join = splitter(saved.action_space), joiner(saved.action_space)
        self._one = zeros(self.observation_space)
        self._state: dict[str, Tree] = {}
        self._batch = 0  # of the state; 0 before the first step

    def reset(self) -> None:
        """Forget the steps before: an episode begins (every one of a batch)."""
        self._batch = 0

    def act(self, obs: Tree, deterministic: bool = True, *, mask: Tree = None, first: ArrayLike | None = None) -> Tree:
        """Choose an action that `env.step` takes (starts added, clipped); for a batch, (B, ...).

        Args:
            obs: One raw observation, or a batch of them with one more leading dimension, as the environment gives it:
                not normalized, not stacked.
            deterministic: The most likely action instead of a drawn one.
            mask: Allowed actions, as in `info["action_mask"]`; with a batch, one for each row.
            first: For batches, (B,) bool: rows that begin an episode; by default those of the call after `reset()`.

        Raises:
            UserError: The observation does not fit the policy, or the batch changed its size without a `reset()`.
        """
        rows, single = self._rows(obs)
        batch = len(tree_leaves(rows)[0])
        params = self._step(rows, batch, first)
        allowed = None if mask is None else self._mask(mask, batch, single)
        actions = self.actor.policy.actions
        with torch.inference_mode():
            if deterministic:
                action = actions.mode(params, allowed)
            else:
                action = actions.sample(params, torch.from_numpy(actions.draw_noise(self._rng, (batch,))), allowed)
        clipped = self._clip(tree_map(lambda leaf: leaf.numpy(), action))
        return self._split(clipped)[0] if single else self._join(clipped)

    def params(self, obs: Tree, *, first: ArrayLike | None = None) -> np.ndarray:
        """Compute action-distribution parameters, (P,) or (B, P); counts as a step."""
        rows, single = self._rows(obs)
        params = self._step(rows, len(tree_leaves(rows)[0]), first).numpy()
        return params[0] if single else params

    def make_env(self, **kwargs: Any) -> Env:
        """Make the training environment with its wrappers, for example with `render_mode="human"`."""
        return make_env(self.config.environment.model_copy(update={"frame_stack": 1}), **kwargs)

    def _step(self, rows: Tree, batch: int, first: ArrayLike | None) -> torch.Tensor:
        begins = np.zeros(batch, bool)
        if self.actor.stateful:
            if self._batch not in (0, batch):
                raise UserError(
                    f"the agent remembers {self._batch} episodes and was given {batch} observations.",
                    "Call agent.reset() before another batch size.",
                )
            if self._batch == 0:
                self._state, self._batch = self.actor.initial_state(batch), batch
                begins[:] = True
            if first is not None:
                begins |= np.asarray(first, bool)
        with torch.inference_mode():
            params, self._state = self.actor(to_tensors(rows), torch.from_numpy(begins), self._state)
        return params

    def _rows(self, obs: Tree) -> tuple[Tree, bool]:
        """Return observations as a checked batch, and True if it was a single one."""
        try:
            rows = _cast(self.observation_space, obs)
            shapes = tree_map(lambda leaf, one: leaf.shape[: leaf.ndim - one.ndim], rows, self._one)
            fit = tree_map(lambda leaf, one: leaf.shape[leaf.ndim - one.ndim :] == one.shape, rows, self._one)
            leads = set(_flat(shapes, self._one))
        except (KeyError, IndexError, TypeError, ValueError):
            raise self._misfit(obs) from None
        if not all(tree_leaves(fit)) or len(leads) != 1 or len(lead := leads.pop()) > 1:
            raise self._misfit(obs)
        return (rows, False) if lead else (tree_map(lambda leaf: leaf[None], rows), True)

    def _misfit(self, obs: Tree) -> UserError:
        try:
            found = str(tree_map(lambda leaf: tuple(np.shape(leaf)), obs))
        except ValueError:
            found = type(obs).__name__
        return UserError(
            f"an observation of shape {found} does not fit the policy, which takes {describe(self.observation_space)}, "
            "or a batch of them.",
            "Give what the environment gives, without normalization or frame stack.",
        )

    def _mask(self, mask: Tree, batch: int, single: bool) -> Tree:
        block = mask_block(self.action_space, batch)
        if block is None:
            raise UserError(f"actions of {describe(self.action_space)} cannot be masked.", "Leave out mask.")
        try:
            for i in range(batch):
                write_mask(self.action_space, block, i, mask if single else tree_map(lambda leaf, i=i: leaf[i], mask))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"the mask does not fit {describe(self.action_space)}: {error}.") from None
        return to_tensors(block)


def _cast(space: Space, obs: Tree) -> Tree:
    """Convert observations to a tree of arrays in the dtypes of the space."""
    children = getattr(space, "spaces", None)
    if isinstance(children, dict):
        return {name: _cast(child, obs[name]) for name, child in children.items()}
    if children is not None:
        if len(obs) != len(children):
            raise ValueError("another number of parts")
        return tuple(_cast(child, part) for child, part in zip(children, obs, strict=True))
    return np.array(obs, leaf_dtype(space), order="C")  # a copy: torch wants arrays that may be written to


def _flat(shapes: Tree, like: Tree) -> list[tuple[int, ...]]:
    """Return the leading shapes in the order of the leaves of `like`."""
    if isinstance(like, dict):
        return [shape for name in like for shape in _flat(shapes[name], like[name])]
    if isinstance(like, tuple):
        return [shape for i, part in enumerate(like) for shape in _flat(shapes[i], part)]
    return [shapes]
