"""Trial of one environment with random actions, for the environment checker."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import gymnasium
import numpy as np

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.control.envs.backends.actions import clipper, random_actions, splitter
from distrl.control.envs.backends.masks import Info, mask_block, mask_reader, write_mask
from distrl.control.envs.backends.observations import mismatch
from distrl.control.envs.checker.messages import is_number
from distrl.control.envs.spaces import leaf_spaces


@dataclass(slots=True)
class Trial:
    """Result of a trial: `problems` violate the API, `remarks` are unusual but work."""

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    steps: int = 0
    lengths: list[int] = field(default_factory=list)
    truncations: int = 0
    masked: bool = False
    step_seconds: float = 0.0
    reset_seconds: list[float] = field(default_factory=list)
    largest: float = 0.0
    path: list[tuple[Tree, float, bool, bool]] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Add a problem once."""
        if text not in self.problems:
            self.problems.append(text)

    def remark(self, text: str) -> None:
        """Add a remark once."""
        if text not in self.remarks:
            self.remarks.append(text)


def run_trial(env: gymnasium.Env, steps: int, seed: int, seconds: float) -> Trial:
    """Step an environment with random actions until `steps`, `seconds` or its first problem.

    `seed` is that of the actions; episode n is reset with `seed + n`.
    """
    trial, rng, stop_at = Trial(), np.random.default_rng(seed), perf_counter() + seconds
    clip, split = clipper(env.action_space), splitter(env.action_space)
    mask = _reset(env, trial, seed)
    length = 0
    while trial.steps < steps and not trial.problems and perf_counter() < stop_at:
        action = split(clip(random_actions(env.action_space, 1, rng, mask)))[0]
        before = perf_counter()
        try:
            outcome = env.step(action)
        except Exception as error:
            trial.problem(f"step {length + 1} of an episode raised {type(error).__name__}: {error} (action {action!r})")
            break
        trial.step_seconds += perf_counter() - before
        trial.steps += 1
        length += 1
        if not _check_step(env, trial, outcome):
            break
        obs, reward, terminated, truncated, info = outcome
        trial.path.append((tree_map(np.array, obs), float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            trial.lengths.append(length)
            trial.truncations += bool(truncated) and not terminated
            mask = _reset(env, trial, seed + len(trial.lengths))
            length = 0
        else:
            mask = _read_mask(env, trial, info)
    return trial


def _reset(env: gymnasium.Env, trial: Trial, seed: int) -> Tree | None:
    before = perf_counter()
    try:
        outcome = env.reset(seed=seed)
    except Exception as error:
        hint = " (does reset take seed=, and step return five values?)" if isinstance(error, TypeError) else ""
        trial.problem(f"reset raised {type(error).__name__}: {error}{hint}")
        return None
    trial.reset_seconds.append(perf_counter() - before)
    if not isinstance(outcome, tuple) or len(outcome) != 2:
        trial.problem(f"reset returned a {type(outcome).__name__}, expected a tuple (observation, info)")
        return None
    obs, info = outcome
    if _check_obs(env, trial, obs, "after reset") and not isinstance(info, dict):
        trial.problem(f"the info of reset is a {type(info).__name__}, expected a dict")
    if trial.problems:
        return None
    trial.path.append((tree_map(np.array, obs), 0.0, False, False))
    return _read_mask(env, trial, info, at_reset=True)


def _check_step(env: gymnasium.Env, trial: Trial, outcome: object) -> bool:
    if not isinstance(outcome, tuple) or len(outcome) != 5:
        found = f"a tuple of {len(outcome)}" if isinstance(outcome, tuple) else f"a {type(outcome).__name__}"
        trial.problem(f"step returned {found}, expected (observation, reward, terminated, truncated, info)")
        return False
    obs, reward, terminated, truncated, info = outcome
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            trial.problem(f"{name} is {flag!r} of type {type(flag).__name__}, expected a bool")
    if not is_number(reward):
        trial.problem(f"the reward is {reward!r}, expected one finite number (in step {trial.steps})")
    if not isinstance(info, dict):
        trial.problem(f"the info of step is a {type(info).__name__}, expected a dict")
    _check_obs(env, trial, obs, f"in step {trial.steps}")
    return not trial.problems


def _check_obs(env: gymnasium.Env, trial: Trial, obs: Tree, when: str) -> bool:
    if found := mismatch(env.observation_space, obs):
        trial.problem(f"{found} ({when})")
        return False
    pairs = tree_map(lambda space, leaf: [space, leaf], leaf_spaces(env.observation_space), obs)
    for space, leaf in tree_leaves(pairs):
        value = np.asarray(leaf)
        if value.dtype != space.dtype and not isinstance(leaf, int):
            trial.remark(f"observations come as {value.dtype} and the space says {space.dtype}: they are converted")
        if not space.contains(value.astype(space.dtype)):
            trial.remark(f"observations leave the bounds of their space, first {when}: {np.round(value, 4).tolist()}")
        if value.dtype.kind == "f" and value.size:
            trial.largest = max(trial.largest, float(np.abs(value).max()))
    return True


def _read_mask(env: gymnasium.Env, trial: Trial, info: Info, at_reset: bool = False) -> Tree | None:
    """Read the mask as a batch of one; None without masks."""
    if not (at_reset or trial.masked):
        return None
    read, block = mask_reader(env, info), mask_block(env.action_space, 1)
    if read is None:
        if trial.masked:
            trial.problem("info['action_mask'] is missing in a step, though reset gave one: give it at every step")
        return None
    if block is None:
        trial.problem("it gives action masks, but its action space cannot be masked")
        return None
    trial.masked = True
    try:
        write_mask(env.action_space, block, 0, read(info))
    except Exception as error:
        trial.problem(f"{error}")
        return None
    return block


def first_difference(one: Trial, other: Trial) -> str | None:
    """Describe the first difference of two trials, or None."""
    for i, ((obs, *rest), (other_obs, *other_rest)) in enumerate(zip(one.path, other.path, strict=False)):
        same = all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in zip(tree_leaves(obs), tree_leaves(other_obs), strict=True)
        )
        if not same or rest != other_rest:
            return f"after {i} resets and steps: {'observation' if not same else 'reward or flags'}"
    return None
