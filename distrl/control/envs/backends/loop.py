"""Backend `gymnasium`: a loop over single environments with exact snapshots.

Transitions equal those of `gymnasium.vector.SyncVectorEnv` in mode `SAME_STEP`. Episodes are seeded by their number, so
a seed and the actions since the reset restore an environment exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import SupportsFloat

import gymnasium
import numpy as np

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.base.errors import EnvError
from distrl.control.envs.backends.actions import ActionHistory, clipper, splitter
from distrl.control.envs.backends.interface import EpisodeEnd, SeedOf, Step
from distrl.control.envs.backends.masks import Info, MaskReader, final_mask, mask_block, mask_reader, write_mask
from distrl.control.envs.backends.observations import batch_writer, finite_check, mismatch, row_writer
from distrl.control.envs.checker import messages
from distrl.control.envs.checker.messages import Place
from distrl.control.envs.library.tabular import REWARD_CHANNELS
from distrl.control.envs.spaces import require_supported, zeros

#: Exceptions of a wrong structure, shape or dtype while observations are gathered (of a NaN if warnings are errors).
_MISFIT = (ValueError, TypeError, LookupError, AttributeError, RuntimeWarning)
#: Number of first vector steps that are checked environment by environment.
_FULL_CHECKS = 3


class LoopVectorEnv:
    """`VectorEnv` of B gymnasium environments stepped in a loop; `name` is for messages.

    `seed_of(environment index, episode number)` is the seed of that episode.
    """

    can_snapshot = True
    reset_steps = False

    def __init__(self, make: Callable[[], gymnasium.Env], num_envs: int, seed_of: SeedOf, name: str = "environment"):
        self.num_envs, self.name = num_envs, name
        self._envs = [make() for _ in range(num_envs)]
        self._steps = [env.step for env in self._envs]
        self._seed_of = seed_of
        first = self._envs[0]
        self.observation_space, self.action_space = first.observation_space, first.action_space
        require_supported(self.observation_space, self.action_space, name)
        self.obs = zeros(self.observation_space, num_envs)
        self.first = np.ones(num_envs, bool)
        self.mask: Tree | None = None
        self._mask_readers: list[MaskReader] = []
        self._write = batch_writer(self.observation_space, self.obs)
        self._write_row = row_writer(self.observation_space, self.obs)
        self._finite = finite_check(self.obs)
        self._plain = isinstance(self.obs, np.ndarray)
        self._shape = self.obs.shape[1:] if self._plain else None
        self._clip, self._split = clipper(self.action_space), splitter(self.action_space)
        self._history = ActionHistory(self.action_space, num_envs)
        self._episodes, self._seeds = [-1] * num_envs, [0] * num_envs
        self._returns, self._nothing = np.zeros(num_envs), np.zeros(num_envs)
        self._never = np.zeros(num_envs, bool)
        self._never.flags.writeable = False  # shared by all steps without an end
        self._any_first = True
        self._full_checks = _FULL_CHECKS
        channels = first.get_wrapper_attr(REWARD_CHANNELS) if first.has_wrapper_attr(REWARD_CHANNELS) else 1
        self.reward_channels = int(channels)

    def reset(self) -> None:
        """Reset every environment into its next episode."""
        infos = [self._begin(i, self._episodes[i] + 1) for i in range(self.num_envs)]
        self.first[:] = True
        self._any_first = True
        self._read_masks(infos)

    def step(self, action: Tree) -> Step:
        """Step every environment; an ended one begins its next episode in the same step.

        Raises EnvError naming environment, episode, seed, step and action.
        """
        clipped = self._clip(action)
        actions = self._split(clipped)
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        observations: list[Tree] = []
        rewards: list[SupportsFloat] = []
        infos: list[Info] = []
        ended: list[tuple[int, bool, bool]] = []
        try:
            for env_step, env_action in zip(self._steps, actions):  # noqa: B905 (lengths are equal; strict costs)
                obs, reward, terminated, truncated, info = env_step(env_action)
                if terminated or truncated:
                    ended.append((len(rewards), bool(terminated), bool(truncated)))
                observations.append(obs)
                rewards.append(reward)
                infos.append(info)
        except Exception as error:
            i = len(rewards)
            raise messages.raised(self._place(i, actions[i]), error) from error
        reward_row = self._gather(observations, rewards, actions)
        self._history.append(clipped)
        self._returns += reward_row
        if self._any_first:
            self.first.fill(False)
            self._any_first = False
        channels = self._read_channels(infos) if self.reward_channels > 1 else None
        if not ended:
            if self._mask_readers:
                self._read_masks(infos)
            return Step(reward_row, self._never, self._never, None, [], [], channels)
        step = self._end_episodes(reward_row, ended, infos)
        step.channels = channels
        return step

    def _gather(self, observations: list[Tree], rewards: list[SupportsFloat], actions: list[Tree]) -> np.ndarray:
        """Write the observations into the block and check the step; returns rewards (B,) float64."""
        try:
            self._write(observations)
            row = np.array(rewards, np.float64)
            # as in finite_check: the dot product with zeros is 0 unless a reward is not finite
            valid = row.ndim == 1 and row.dot(self._nothing) == 0.0 and self._finite()
        except _MISFIT as error:
            places = [self._place(i, actions[i]) for i in range(self.num_envs)]
            raise messages.first_fault(places, self.observation_space, observations, rewards) from error
        if self._full_checks:
            self._full_checks -= 1
            valid = valid and not any(mismatch(self.observation_space, obs) for obs in observations)
        if not valid:
            places = [self._place(i, actions[i]) for i in range(self.num_envs)]
            raise messages.first_fault(places, self.observation_space, observations, rewards)
        return row

    def _end_episodes(self, reward: np.ndarray, ended: list[tuple[int, bool, bool]], infos: list[Info]) -> Step:
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        finals, episodes = [], []
        final_masks: list[Tree] | None = [] if self._mask_readers else None
        for i, is_terminated, is_truncated in ended:
            terminated[i], truncated[i] = is_terminated, is_truncated
            finals.append((i, self._row(i)))
            if final_masks is not None:  # read before the reset: `action_masks()` is of the present state
                final_masks.append(self._final_mask(i, infos[i], is_terminated))
            length = self._history.length(i)
            episodes.append(EpisodeEnd(i, self._episodes[i], self._seeds[i], float(self._returns[i]), length))
            infos[i] = self._begin(i, self._episodes[i] + 1)
            self.first[i] = True
        self._any_first = True
        if self._mask_readers:
            self._read_masks(infos)
        return Step(reward, terminated, truncated, None, finals, episodes, None, final_masks)

    def _begin(self, i: int, episode: int, seed: int | None = None) -> Info:
        """Reset environment i into an episode and write its first observation; returns the info."""
        seed = self._seed_of(i, episode) if seed is None else seed
        self._episodes[i], self._seeds[i] = episode, seed
        self._history.begin(i)
        self._returns[i] = 0.0
        try:
            obs, info = self._envs[i].reset(seed=seed)
        except Exception as error:
            raise messages.raised(self._place(i), error) from error
        self._write_checked(i, obs, self._place(i))
        return info

    def _write_checked(self, i: int, obs: Tree, place: Place) -> None:
        """Check one observation and write it into row i."""
        known = self._plain and type(obs) is np.ndarray and obs.shape == self._shape and obs.dtype == self.obs.dtype
        if known and not self._full_checks:
            self._write_row(i, obs)
            if self._finite():
                return
        if found := mismatch(self.observation_space, obs):
            raise messages.bad_observation(place, self.observation_space, found)
        self._write_row(i, obs)

    def _read_channels(self, infos: list[Info]) -> np.ndarray:
        """Read the reward channels (B, K)."""
        try:
            block = np.array([info[REWARD_CHANNELS] for info in infos], np.float64)
            if block.shape != (self.num_envs, self.reward_channels) or not np.isfinite(block).all():
                raise ValueError(f"expected {self.reward_channels} finite numbers, found {block[0]!r}")
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise EnvError(
                f"{self.name} has {self.reward_channels} reward channels, but info['{REWARD_CHANNELS}'] of a step is "
                f"missing or wrong: {error}.",
                "Set it at every step, one number for each channel.",
            ) from error
        return block

    def _read_masks(self, infos: list[Info]) -> None:
        """Read every environment's mask; the first call finds out which environments have masks."""
        if not self._mask_readers:
            readers = [mask_reader(env, info) for env, info in zip(self._envs, infos, strict=True)]
            if readers[0] is None:
                return
            self.mask = mask_block(self.action_space, self.num_envs)
            if self.mask is None:
                raise EnvError(
                    f"{self.name} gives action masks, but its action space has parts that cannot be masked.",
                    "Masks are for Discrete and MultiDiscrete actions, and Dict and Tuple of them.",
                )

            def missing(info: Info) -> Tree:
                raise ValueError("gives no action mask, though environment 0 does")

            self._mask_readers = [reader or missing for reader in readers]
        for i, (read, info) in enumerate(zip(self._mask_readers, infos, strict=True)):
            try:
                write_mask(self.action_space, self.mask, i, read(info))
            except Exception as error:
                raise messages.bad_mask(self._place(i), error) from error

    def _final_mask(self, i: int, info: Info, terminated: bool) -> Tree:
        """Read the mask of environment i after truncation; all true after termination."""
        try:
            return final_mask(self.action_space, (lambda _: None) if terminated else self._mask_readers[i], info)
        except Exception as error:
            raise messages.bad_mask(self._place(i), error) from error

    def _row(self, i: int) -> Tree:
        return self.obs[i].copy() if self._plain else tree_map(lambda leaf: leaf[i].copy(), self.obs)

    def _place(self, i: int, action: Tree | None = None) -> Place:
        step = 0 if action is None else self._history.length(i) + 1
        return Place(self.name, i, self._episodes[i], self._seeds[i], step, action)

    def snapshot(self) -> dict[str, Tree]:
        """Return number, seed and actions of the running episodes, and data to verify a restore."""
        return {
            "episode": np.array(self._episodes, np.int64),
            "seed": np.array(self._seeds, np.int64),
            "return": self._returns.copy(),
            "obs": tree_map(np.copy, self.obs),
            "actions": [self._history.since_reset(i) for i in range(self.num_envs)],
        }

    def restore(self, state: dict[str, Tree]) -> None:
        """Restore a snapshot: reset every environment with its seed and replay its actions.

        Raises EnvError if the replay ends at another observation or return.
        """
        if len(state["episode"]) != self.num_envs:
            raise EnvError(f"a snapshot of {len(state['episode'])} environments for {self.num_envs} of {self.name}.")
        infos = [
            self._replay(i, int(state["episode"][i]), int(state["seed"][i]), state["actions"][i])
            for i in range(self.num_envs)
        ]
        self._history.load(state["actions"])
        self.first[:] = [self._history.length(i) == 0 for i in range(self.num_envs)]
        self._any_first = True
        if state["episode"].min() < 0:
            return  # taken before the first reset
        self._read_masks(infos)
        for i in range(self.num_envs):
            same = self._returns[i] == state["return"][i]
            for mine, saved in zip(tree_leaves(self.obs), tree_leaves(state["obs"]), strict=True):
                same = same and np.array_equal(mine[i], saved[i])
            if not same:
                raise self._not_reproducible(i, "arrives at another observation or return")

    def _replay(self, i: int, episode: int, seed: int, actions: Tree) -> Info:
        """Replay the episode of environment i; returns the last info."""
        self._episodes[i] = episode
        if episode < 0:
            return {}
        info = self._begin(i, episode, seed)
        obs: Tree = None
        total = 0.0
        env_actions = self._split(actions)
        for env_action in env_actions:
            try:
                obs, reward, terminated, truncated, info = self._steps[i](env_action)
            except Exception as error:
                raise messages.raised(self._place(i, env_action), error) from error
            total += float(reward)
            if terminated or truncated:
                raise self._not_reproducible(i, "ends its episode too early")
        if env_actions:
            self._write_checked(i, obs, self._place(i, env_actions[-1]))
        self._returns[i] = total
        return info

    def _not_reproducible(self, i: int, what: str) -> EnvError:
        return EnvError(
            f"environment {i} of {self.name} {what} when episode {self._episodes[i]} (seed {self._seeds[i]}) is "
            "replayed from its seed and actions: something in it depends on neither.",
            "Draw random numbers only from self.np_random and set all state in reset(); `distrl doctor` checks this.",
        )

    def close(self) -> None:
        """Close every environment, with a warning for one that raises."""
        for i, env in enumerate(self._envs):
            try:
                env.close()
            except Exception as error:
                warnings.warn(f"closing environment {i} of {self.name}: {type(error).__name__}: {error}", stacklevel=2)
