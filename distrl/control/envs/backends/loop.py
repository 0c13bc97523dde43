"""The `gymnasium` back end: our own loop over environments, with masked resets and dense blocks.

The transitions are those of `gymnasium.vector.SyncVectorEnv`; what is left out is its copy of every observation and its
dictionary of infos at every step. Episodes are seeded by their number, so an environment's exact state is that seed
and the actions since its reset.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from distrl.base.columns import tree_leaves, tree_map
from distrl.base.errors import EnvError
from distrl.control.envs.backends.actions import ActionHistory, clipper, splitter
from distrl.control.envs.backends.interface import EpisodeEnd, SeedOf, Step
from distrl.control.envs.backends.masks import final_mask, mask_block, mask_reader, write_mask
from distrl.control.envs.backends.observations import batch_writer, finite_check, mismatch, row_writer
from distrl.control.envs.checker import messages as faults
from distrl.control.envs.checker.messages import Where
from distrl.control.envs.library.tabular import REWARD_CHANNELS
from distrl.control.envs.spaces import require_supported, zeros

#: What a wrong structure, shape or dtype raises while observations are gathered (and a NaN, where warnings are errors).
_MISFIT = (ValueError, TypeError, LookupError, AttributeError, RuntimeWarning)
#: So many vector steps are looked at closely, environment by environment, before the cheap checks are trusted.
_CLOSE_LOOKS = 3


class LoopVectorEnv:
    """B gymnasium environments in one loop; the `VectorEnv` of the `gymnasium` back end.

    Args:
        make: Builds one environment.
        num_envs: B.
        seed_of: (environment index, episode number) -> the seed of that episode.
        name: What messages call the environment.
    """

    can_snapshot = True
    burns_steps = False

    def __init__(
        self, make: Callable[[], gymnasium.Env[Any, Any]], num_envs: int, seed_of: SeedOf, name: str = "environment"
    ):
        self.num_envs = num_envs
        self.name = name
        self._envs = [make() for _ in range(num_envs)]
        self._steps = [env.step for env in self._envs]
        self._seed_of = seed_of
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space
        require_supported(self.observation_space, self.action_space, name)
        self.obs = zeros(self.observation_space, num_envs)
        self.first = np.ones(num_envs, bool)
        self.mask: Any = None
        self._mask_readers: list[Callable[[Any], Any]] = []
        self._write = batch_writer(self.observation_space, self.obs)
        self._write_row = row_writer(self.observation_space, self.obs)
        self._finite = finite_check(self.obs)
        self._plain = isinstance(self.obs, np.ndarray)
        self._shape = self.obs.shape[1:] if self._plain else None
        self._clip = clipper(self.action_space)
        self._split = splitter(self.action_space)
        self._history = ActionHistory(self.action_space, num_envs)
        self._episodes = [-1] * num_envs
        self._seeds = [0] * num_envs
        self._returns = np.zeros(num_envs)
        self._nothing = np.zeros(num_envs)
        self._never = np.zeros(num_envs, bool)
        self._never.flags.writeable = False  # handed out at every step in which nothing ends
        self._any_first = True
        self._close_looks = _CLOSE_LOOKS
        first = self._envs[0]
        channels = first.get_wrapper_attr(REWARD_CHANNELS) if first.has_wrapper_attr(REWARD_CHANNELS) else 1
        self.reward_channels = int(channels)

    def reset(self) -> None:
        """Every environment begins its next episode.

        Raises:
            EnvError: An environment raises, or its first observation does not fit its space.
        """
        infos = [self._begin(i, self._episodes[i] + 1) for i in range(self.num_envs)]
        self.first[:] = True
        self._any_first = True
        self._read_masks(infos)

    def step(self, action: Any) -> Step:
        """Step every environment; one that ends begins its next episode at once.

        Args:
            action: Tree (B, ...): zero-based indices for Discrete, any floats for Box (clipped here).

        Raises:
            EnvError: An environment raises, or gives what does not fit its spaces or is not finite. It names the
                environment, its episode and seed, the step and the action.
        """
        clipped = self._clip(action)
        actions = self._split(clipped)
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        observations: list[Any] = []
        rewards: list[Any] = []
        infos: list[Any] = []
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
            raise faults.raised(self._where(i, actions[i]), error) from error
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

    def _gather(self, observations: list[Any], rewards: list[Any], actions: list[Any]) -> np.ndarray:
        """Write the observations into the block and check everything about this step; the rewards as (B,) float64."""
        try:
            self._write(observations)
            row = np.array(rewards, np.float64)
            # as in finite_check: the dot product with zeros is 0 unless a reward is not finite
            fine = row.ndim == 1 and row.dot(self._nothing) == 0.0 and self._finite()
        except _MISFIT as error:
            places = [self._where(i, actions[i]) for i in range(self.num_envs)]
            raise faults.first_fault(places, self.observation_space, observations, rewards) from error
        if self._close_looks:
            self._close_looks -= 1
            fine = fine and not any(mismatch(self.observation_space, obs) for obs in observations)
        if not fine:
            places = [self._where(i, actions[i]) for i in range(self.num_envs)]
            raise faults.first_fault(places, self.observation_space, observations, rewards)
        return row

    def _end_episodes(self, reward: np.ndarray, ended: list[tuple[int, bool, bool]], infos: list[Any]) -> Step:
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        finals, episodes = [], []
        final_masks: list[Any] | None = [] if self._mask_readers else None
        for i, is_terminated, is_truncated in ended:
            terminated[i], truncated[i] = is_terminated, is_truncated
            finals.append((i, self._row(i)))
            if final_masks is not None:  # read before the reset: `action_masks()` tells of now
                final_masks.append(self._final_mask(i, infos[i], is_terminated))
            length = self._history.length(i)
            episodes.append(EpisodeEnd(i, self._episodes[i], self._seeds[i], float(self._returns[i]), length))
            infos[i] = self._begin(i, self._episodes[i] + 1)
            self.first[i] = True
        self._any_first = True
        if self._mask_readers:
            self._read_masks(infos)
        return Step(reward, terminated, truncated, None, finals, episodes, None, final_masks)

    def _begin(self, i: int, episode: int, seed: int | None = None) -> Any:
        """Reset environment i into an episode and write its first observation; returns the info."""
        seed = self._seed_of(i, episode) if seed is None else seed
        self._episodes[i], self._seeds[i] = episode, seed
        self._history.begin(i)
        self._returns[i] = 0.0
        try:
            obs, info = self._envs[i].reset(seed=seed)
        except Exception as error:
            raise faults.raised(self._where(i), error) from error
        self._place(i, obs, self._where(i))
        return info

    def _place(self, i: int, obs: Any, where: Where) -> None:
        """Check one observation and write it into row i."""
        known = self._plain and type(obs) is np.ndarray and obs.shape == self._shape and obs.dtype == self.obs.dtype
        if known and not self._close_looks:
            self._write_row(i, obs)
            if self._finite():
                return
        if found := mismatch(self.observation_space, obs):
            raise faults.bad_observation(where, self.observation_space, found)
        self._write_row(i, obs)

    def _read_channels(self, infos: list[Any]) -> np.ndarray:
        """The reward of every environment, channel by channel (B, K)."""
        try:
            block = np.array([info[REWARD_CHANNELS] for info in infos], np.float64)
            if block.shape != (self.num_envs, self.reward_channels) or not np.isfinite(block).all():
                raise ValueError(f"expected {self.reward_channels} finite numbers, found {block[0]!r}")
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise EnvError(
                f"{self.name} has {self.reward_channels} reward channels, but info['{REWARD_CHANNELS}'] of a step is "
                f"missing or wrong: {error}.",
                "Give it at every step, one number for each channel.",
            ) from error
        return block

    def _read_masks(self, infos: list[Any]) -> None:
        """Take every environment's mask; the first time, find out whether there are any."""
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
            self._mask_readers = [reader or _no_mask for reader in readers]
        for i, (read, info) in enumerate(zip(self._mask_readers, infos, strict=True)):
            try:
                write_mask(self.action_space, self.mask, i, read(info))
            except Exception as error:
                raise faults.bad_mask(self._where(i), error) from error

    def _final_mask(self, i: int, info: Any, terminated: bool) -> Any:
        """What environment i allows after a step that cut its episode off; after a true end nobody asks."""
        try:
            return final_mask(self.action_space, _anything if terminated else self._mask_readers[i], info)
        except Exception as error:
            raise faults.bad_mask(self._where(i), error) from error

    def _row(self, i: int) -> Any:
        return self.obs[i].copy() if self._plain else tree_map(lambda leaf: leaf[i].copy(), self.obs)

    def _where(self, i: int, action: Any = None) -> Where:
        step = 0 if action is None else self._history.length(i) + 1
        return Where(self.name, i, self._episodes[i], self._seeds[i], step, action)

    def snapshot(self) -> dict[str, Any]:
        """The running episodes: number, seed and actions of each; return and observation to check a restore with."""
        return {
            "episode": np.array(self._episodes, np.int64),
            "seed": np.array(self._seeds, np.int64),
            "return": self._returns.copy(),
            "obs": tree_map(np.copy, self.obs),
            "actions": [self._history.since_reset(i) for i in range(self.num_envs)],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a snapshot: reset every environment with its seed and replay its actions.

        Raises:
            EnvError: The snapshot is of another number of environments; or the replay does not arrive at the
                snapshot's observation or return: the environment is not a function of seed and actions.
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

    def _replay(self, i: int, episode: int, seed: int, actions: Any) -> Any:
        """Bring environment i to where its episode was; returns the last info."""
        self._episodes[i] = episode
        if episode < 0:
            return {}
        info = self._begin(i, episode, seed)
        obs: Any = None
        total = 0.0
        env_actions = self._split(actions)
        for env_action in env_actions:
            try:
                obs, reward, terminated, truncated, info = self._steps[i](env_action)
            except Exception as error:
                raise faults.raised(self._where(i, env_action), error) from error
            total += float(reward)
            if terminated or truncated:
                raise self._not_reproducible(i, "ends its episode too early")
        if env_actions:
            self._place(i, obs, self._where(i, env_actions[-1]))
        self._returns[i] = total
        return info

    def _not_reproducible(self, i: int, what: str) -> EnvError:
        return EnvError(
            f"environment {i} of {self.name} {what} when episode {self._episodes[i]} (seed {self._seeds[i]}) is "
            "replayed from its seed and actions: something in it depends on neither.",
            "Draw random numbers only from self.np_random and set all state in reset(); `distrl doctor` checks this.",
        )

    def close(self) -> None:
        """Close every environment; one that raises while closing is reported as a warning."""
        for i, env in enumerate(self._envs):
            try:
                env.close()
            except Exception as error:
                warnings.warn(f"closing environment {i} of {self.name}: {type(error).__name__}: {error}", stacklevel=2)


def _anything(info: Any) -> None:
    """The mask where none is of interest."""


def _no_mask(info: Any) -> Any:
    raise ValueError("gives no action mask, though environment 0 does")
