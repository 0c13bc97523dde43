"""What the vector back ends that reset on the next step have in common.

They reset an ended environment during the following call and ignore that call's action: the step is burnt. The
observation after an end is the true last one; the first observation of the next episode comes one step later.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space

from distrl.base.columns import tree_leaves, tree_map
from distrl.base.errors import ConfigError, EnvError
from distrl.control.envs.backends.actions import clipper, joiner
from distrl.control.envs.backends.interface import EpisodeEnd, SeedOf, Step
from distrl.control.envs.backends.observations import finite_check
from distrl.control.envs.spaces import describe, require_supported, zeros


class BurntVectorEnv:
    """B environments stepped by somebody else's vector code, with the face of `VectorEnv`.

    A subclass says how the whole vector is reset and stepped. `EpisodeEnd.seed` is the seed line that the environment
    was started with: its later episodes draw on from there.
    """

    can_snapshot = False
    burns_steps = True

    def __init__(
        self, observation_space: Space[Any], action_space: Space[Any], num_envs: int, seed_of: SeedOf, name: str
    ):
        require_supported(observation_space, action_space, name)
        self.num_envs = num_envs
        self.name = name
        self.observation_space, self.action_space = observation_space, action_space
        self.obs = zeros(observation_space, num_envs)
        self.first = np.ones(num_envs, bool)
        self.mask = None
        self._seed_of = seed_of
        self._finite = finite_check(self.obs)
        self._clip, self._join = clipper(action_space), joiner(action_space)
        self._done = np.zeros(num_envs, bool)
        self._returns = np.zeros(num_envs)
        self._nothing = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._episodes = np.full(num_envs, -1, np.int64)
        self._seeds = [0] * num_envs

    def _raw_reset(self) -> Any:
        """Reset the whole vector; the observations."""
        raise NotImplementedError

    def _raw_step(self, action: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """Step the whole vector: observations, reward, terminated, truncated."""
        raise NotImplementedError

    def reset(self) -> None:
        """Every environment begins its next episode.

        Raises:
            EnvError: The back end raises, or its observations do not fit the space.
        """
        try:
            obs = self._raw_reset()
        except Exception as error:
            raise EnvError(f"{self.name} raised {type(error).__name__} at the reset: {error}.") from error
        self._take(obs)
        self._episodes += 1
        self._returns[:], self._lengths[:], self._done[:] = 0.0, 0, False
        self.first[:] = True

    def step(self, action: Any) -> Step:
        """Step every environment; for those that have just ended, the step is burnt on the reset.

        Args:
            action: Tree (B, ...): zero-based indices for Discrete, any floats for Box (clipped here).

        Raises:
            EnvError: The back end raises, or gives values that are not finite.
        """
        burnt = self._done
        try:
            obs, raw_reward, terminated, truncated = self._raw_step(self._join(self._clip(action)))
        except Exception as error:
            raise EnvError(f"{self.name} raised {type(error).__name__}: {error}.") from error
        valid = ~burnt
        reward = np.where(burnt, 0.0, raw_reward).astype(np.float64, copy=False)
        terminated, truncated = terminated & valid, truncated & valid
        self._take(obs)
        if reward.dot(self._nothing) != 0.0 or not self._finite():
            raise self._not_finite(reward)
        self._begin_after(burnt)
        self._returns += reward
        self._lengths += valid
        self._done = terminated | truncated
        finals, episodes = self._ended() if self._done.any() else ([], [])
        return Step(reward, terminated, truncated, valid, finals, episodes)

    def _begin_after(self, burnt: np.ndarray) -> None:
        """The environments whose step was burnt stand at the beginning of their next episode."""
        self.first[:] = burnt
        if burnt.any():
            self._episodes += burnt
            self._returns[burnt] = 0.0
            self._lengths[burnt] = 0

    def _ended(self) -> tuple[list[tuple[int, Any]], list[EpisodeEnd]]:
        finals, episodes = [], []
        for i in np.flatnonzero(self._done).tolist():
            finals.append((i, tree_map(lambda leaf, i=i: leaf[i].copy(), self.obs)))
            length, return_ = int(self._lengths[i]), float(self._returns[i])
            episodes.append(EpisodeEnd(i, int(self._episodes[i]), self._seeds[i], return_, length))
        return finals, episodes

    def _take(self, obs: Any) -> None:
        """Copy the back end's observations into our block; they must have its shapes."""
        try:
            for block, leaf in zip(tree_leaves(self.obs), self._leaves(obs), strict=True):
                if leaf.shape != block.shape:
                    raise ValueError(f"shape {leaf.shape}, expected {block.shape}")
                np.copyto(block, leaf, casting="same_kind")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise EnvError(
                f"{self.name}: its observations do not fit {describe(self.observation_space)}: {error}.",
                "Use env.backend=gymnasium, which checks each environment on its own.",
            ) from error

    def _leaves(self, obs: Any) -> list[Any]:
        return [obs] if isinstance(obs, np.ndarray) else tree_leaves(tree_map(lambda _, leaf: leaf, self.obs, obs))

    def _not_finite(self, reward: np.ndarray) -> EnvError:
        for i in range(self.num_envs):
            floats = [leaf[i] for leaf in tree_leaves(self.obs) if leaf.dtype.kind == "f"]
            if not (np.isfinite(reward[i]) and all(np.isfinite(leaf).all() for leaf in floats)):
                return EnvError(
                    f"environment {i} of {self.name} (episode {self._episodes[i]}, step {self._lengths[i] + 1}) gave "
                    f"reward {reward[i]} and observation {floats}, expected finite numbers.",
                    "Look at the environment with env.backend=gymnasium, or at the actions that the policy gives.",
                )
        return EnvError(f"{self.name} gave values that are not finite.")

    def snapshot(self) -> dict[str, Any]:
        """Not possible here: such a back end cannot reset one environment with one seed."""
        raise self._no_snapshot()

    def restore(self, state: dict[str, Any]) -> None:
        """Not possible here; see `snapshot`."""
        raise self._no_snapshot()

    def _no_snapshot(self) -> EnvError:
        return EnvError(f"{self.name} has no exact snapshots with this back end.", "Use env.backend=gymnasium.")


def refuse_wrappers(env_config: Any) -> None:
    """These back ends step all environments at once, so nothing can be wrapped around one of them.

    Raises:
        ConfigError: The config asks for wrappers or frame stacking.
    """
    backend = env_config.backend
    if getattr(env_config, "wrappers", None):
        raise ConfigError(f"env.wrappers with env.backend {backend}: it has no single environments to wrap.", _FIX)
    if (getattr(env_config, "frame_stack", None) or 1) > 1:
        raise ConfigError(
            f"env.frame_stack {env_config.frame_stack} with env.backend {backend}: it has no single environments.",
            _FIX + " EnvPool's Atari environments stack by themselves: env.kwargs.stack_num=4.",
        )


_FIX = "Use env.backend=gymnasium."
