"""Rollout buffer: arrays for T steps of B environments, written in place."""

from __future__ import annotations

import numpy as np
import torch

from distrl.base.columns import Columns, Tree, tree_map, tree_stack
from distrl.control.envs.backends.interface import Step, VectorEnv
from distrl.control.envs.spaces import zeros
from distrl.control.models.policy import Policy
from distrl.experience.moments import Moments


class RolloutBuffer:
    """Arrays (T, B, ...) of one fragment, or of several that are stepped together.

    With `normalize`, raw observations are stored too; with `give_raw`, rollouts contain these (floats as float32).
    """

    def __init__(self, env: VectorEnv, policy: Policy, steps: int, width: int, normalize: bool, give_raw: bool = False):
        lead = (steps, width)
        self.steps, self.width = steps, width
        self.normalize, self.give_raw = normalize, give_raw
        space = env.observation_space
        self.obs = _as_policy_input(zeros(space, *lead))
        self.raw = zeros(space, *lead) if normalize else self.obs
        self.raw_last = zeros(space, width) if normalize else _as_policy_input(zeros(space, width))
        self.params = np.zeros((*lead, policy.actions.param_size), np.float32)
        self.action: Tree = None
        self.reward = np.zeros(lead, np.float32)
        self.terminated, self.truncated, self.first = (np.zeros(lead, bool) for _ in range(3))
        self.valid = np.ones(lead, bool) if env.reset_steps else None
        self.mask = None if env.mask is None else tree_map(lambda m: np.ones((*lead, *m.shape[1:]), bool), env.mask)
        self.last_mask = None if self.mask is None else tree_map(lambda m: m[0].copy(), self.mask)
        channels = getattr(env, "reward_channels", 1)
        self.reward_channels = np.zeros((*lead, channels), np.float32) if channels > 1 else None
        self.first_tensor = torch.from_numpy(self.first)
        self._params_tensor = torch.from_numpy(self.params).unbind(0)
        self._obs_tensor = tree_map(torch.from_numpy, self.obs)
        # A single array is the common case, and its per-step views are worth making once.
        self._obs_steps = self._obs_tensor.unbind(0) if isinstance(self._obs_tensor, torch.Tensor) else None
        self._raw_is_array = isinstance(self.raw, np.ndarray)
        self.state: Tree = None
        self.finals: list[tuple[int, int, Tree]] = []
        self.final_masks: list[Tree] = []

    def begin(self, state: Tree) -> None:
        """Clear the final observations and record the recurrent state before step 0."""
        self.finals, self.final_masks = [], []
        self.state = None if state is None else tree_map(lambda leaf: leaf.numpy().copy(), state)

    def observe(self, t: int, span: slice, env: VectorEnv) -> None:
        """Copy the observations before step t."""
        if self._raw_is_array:
            self.raw[t, span] = env.obs
        else:
            tree_map(lambda block, leaf: block[t].__setitem__(span, leaf), self.raw, env.obs)
        self.first[t, span] = env.first
        if self.mask is not None:
            tree_map(lambda block, leaf: block[t].__setitem__(span, leaf), self.mask, env.mask)

    def observe_last(self, span: slice, env: VectorEnv) -> None:
        """Copy the observations after the last step."""
        tree_map(lambda block, leaf: block.__setitem__(span, leaf), self.raw_last, env.obs)
        if self.last_mask is not None:
            tree_map(lambda block, leaf: block.__setitem__(span, leaf), self.last_mask, env.mask)

    def policy_obs(self, t: int, policy: Policy) -> Tree:
        """Return the policy's input (B, ...) at step t."""
        if self.normalize:
            raw = tree_map(lambda leaf: torch.from_numpy(leaf[t]), self.raw)
            tree_map(lambda block, leaf: block[t].__setitem__(..., leaf.numpy()), self.obs, policy.normalize(raw))
        if self._obs_steps is not None:
            return self._obs_steps[t]
        return tree_map(lambda leaf: leaf[t], self._obs_tensor)

    def policy_mask(self, t: int) -> Tree:
        """Return the action mask (B, ...) of step t, or None."""
        return None if self.mask is None else tree_map(lambda leaf: torch.from_numpy(leaf[t]), self.mask)

    def act(self, t: int, params: torch.Tensor, action: Tree) -> Tree:
        """Record distribution parameters and action; returns the action as numpy (B, ...)."""
        self._params_tensor[t].copy_(params)
        chosen = action.numpy() if isinstance(action, torch.Tensor) else tree_map(lambda leaf: leaf.numpy(), action)
        if self.action is None:
            self.action = tree_map(lambda leaf: np.zeros((self.steps, *leaf.shape), leaf.dtype), chosen)
        if isinstance(chosen, np.ndarray):
            self.action[t] = chosen
        else:
            tree_map(lambda block, leaf: block.__setitem__(t, leaf), self.action, chosen)
        return chosen

    def record(self, t: int, span: slice, step: Step) -> None:
        """Record the results of step t."""
        self.reward[t, span] = step.reward
        self.terminated[t, span] = step.terminated
        self.truncated[t, span] = step.truncated
        if self.reward_channels is not None:
            self.reward_channels[t, span] = step.channels
        if step.valid is not None and self.valid is not None:
            self.valid[t, span] = step.valid
        for i, (b, obs) in enumerate(step.finals):
            if step.truncated[b] and not step.terminated[b]:
                self.finals.append((t, span.start + b, tree_map(np.array, obs)))
                if step.final_masks is not None:
                    self.final_masks.append(step.final_masks[i])

    def rollout(self, policy: Policy, version: int) -> Columns:
        """Return the rollout, with log-probabilities of all steps computed at once."""
        actions = policy.actions
        mask = None if self.mask is None else tree_map(torch.from_numpy, self.mask)
        action = tree_map(torch.from_numpy, self.action)
        logp = actions.logp(torch.from_numpy(self.params), action, mask).numpy()
        columns: dict[str, Tree] = {
            "obs": _as_policy_input(self.raw) if self.give_raw else self.obs,
            "action": self.action,
            "logp": logp,
            "params": self.params,
            "reward": self.reward,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "first": self.first,
            "last_obs": self._normalized(self.raw_last, policy),
            "version": np.full(self.width, version, np.int64),
            **self._finals(policy),
        }
        for name in ("mask", "last_mask", "valid", "state", "reward_channels"):
            if getattr(self, name) is not None:
                columns[name] = getattr(self, name)
        return Columns(**columns)

    def _finals(self, policy: Policy) -> dict[str, Tree]:
        masks: dict[str, Tree] = {}
        if self.mask is not None:
            masks["final_mask"] = tree_stack(self.final_masks) if self.final_masks else _empty(self.mask)
        if not self.finals:
            return {"final_obs": _empty(self.obs), "final_index": np.zeros((0, 2), np.int64), **masks}
        stacked = tree_stack([obs for _, _, obs in self.finals])
        dtypes = tree_map(lambda leaf, block: leaf.astype(block.dtype, copy=False), stacked, self.raw_last)
        return {
            "final_obs": self._normalized(dtypes, policy),
            "final_index": np.array([(t, b) for t, b, _ in self.finals], np.int64),
            **masks,
        }

    def _normalized(self, raw: Tree, policy: Policy) -> Tree:
        if not self.normalize:
            return raw
        if self.give_raw:
            return _as_policy_input(raw)
        return tree_map(lambda leaf: leaf.numpy(), policy.normalize(tree_map(torch.from_numpy, raw)))

    def obs_moments(self, span: slice, valid: np.ndarray | None, policy: Policy) -> Moments:
        """Compute moments of some environments' raw observations for the policy's normalizer."""
        rows = policy.normalizer.rows(tree_map(lambda leaf: leaf[:, span], self.raw))
        return Moments.of(rows if valid is None else rows[valid.reshape(-1)], leading=1)


def _empty(tree: Tree) -> Tree:
    """Make an empty tree (0, ...) from (T, B, ...)."""
    return tree_map(lambda leaf: np.zeros((0, *leaf.shape[2:]), leaf.dtype), tree)


def _as_policy_input(tree: Tree) -> Tree:
    """Cast floats to float32, the precision of policies."""
    return tree_map(lambda leaf: leaf.astype(np.float32, copy=False) if leaf.dtype.kind == "f" else leaf, tree)
