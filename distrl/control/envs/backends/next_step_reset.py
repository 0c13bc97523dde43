"""Base class of vector backends with `AutoresetMode.NEXT_STEP`.

The call after an end resets the environment and ignores its action (a reset step).
"""

from __future__ import annotations

import numpy as np
from gymnasium import Space

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.base.errors import ConfigError, EnvError
from distrl.config.sections.env import EnvConfig
from distrl.control.envs.backends.actions import clipper, joiner
from distrl.control.envs.backends.interface import EpisodeEnd, SeedOf, Step
from distrl.control.envs.backends.observations import finite_check
from distrl.control.envs.spaces import describe, require_supported, zeros


class NextStepResetEnv:
    """`VectorEnv` over an external vector implementation; subclasses reset and step it.

    `EpisodeEnd.seed` is the seed that the environment was started with.
    """

    can_snapshot = False
    reset_steps = True

    def __init__(self, observation_space: Space, action_space: Space, num_envs: int, seed_of: SeedOf, name: str):
        require_supported(observation_space, action_space, name)
        self.num_envs, self.name = num_envs, name
        self.observation_space, self.action_space = observation_space, action_space
        self.obs = zeros(observation_space, num_envs)
        self.first = np.ones(num_envs, bool)
        self.mask = None
        self._seed_of = seed_of
        self._finite = finite_check(self.obs)
        self._clip, self._join = clipper(action_space), joiner(action_space)
        self._done = np.zeros(num_envs, bool)
        self._returns, self._nothing = np.zeros(num_envs), np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._episodes = np.full(num_envs, -1, np.int64)
        self._seeds = [0] * num_envs

    def _raw_reset(self) -> Tree:
        """Reset the whole vector; returns observations."""
        raise NotImplementedError

    def _raw_step(self, action: Tree) -> tuple[Tree, np.ndarray, np.ndarray, np.ndarray]:
        """Step the whole vector; returns observations, reward, terminated, truncated."""
        raise NotImplementedError

    def reset(self) -> None:
        """Reset every environment into its next episode."""
        try:
            obs = self._raw_reset()
        except Exception as error:
            raise EnvError(f"{self.name} raised {type(error).__name__} at the reset: {error}.") from error
        self._store(obs)
        self._episodes += 1
        self._returns[:], self._lengths[:], self._done[:] = 0.0, 0, False
        self.first[:] = True

    def step(self, action: Tree) -> Step:
        """Step every environment; those that have just ended spend the step on the reset."""
        resetting = self._done
        try:
            obs, raw_reward, terminated, truncated = self._raw_step(self._join(self._clip(action)))
        except Exception as error:
            raise EnvError(f"{self.name} raised {type(error).__name__}: {error}.") from error
        valid = ~resetting
        reward = np.where(resetting, 0.0, raw_reward).astype(np.float64, copy=False)
        terminated, truncated = terminated & valid, truncated & valid
        self._store(obs)
        if reward.dot(self._nothing) != 0.0 or not self._finite():
            raise self._not_finite(reward)
        self.first[:] = resetting
        if resetting.any():
            self._episodes += resetting
            self._returns[resetting] = 0.0
            self._lengths[resetting] = 0
        self._returns += reward
        self._lengths += valid
        self._done = terminated | truncated
        finals, episodes = self._ended() if self._done.any() else ([], [])
        return Step(reward, terminated, truncated, valid, finals, episodes)

    def _ended(self) -> tuple[list[tuple[int, Tree]], list[EpisodeEnd]]:
        finals, episodes = [], []
        for i in np.flatnonzero(self._done).tolist():
            finals.append((i, tree_map(lambda leaf, i=i: leaf[i].copy(), self.obs)))
            length, return_ = int(self._lengths[i]), float(self._returns[i])
            episodes.append(EpisodeEnd(i, int(self._episodes[i]), self._seeds[i], return_, length))
        return finals, episodes

    def _store(self, obs: Tree) -> None:
        """Copy the backend's observations into `obs`, checking shapes."""
        try:
            plain = isinstance(obs, np.ndarray)
            leaves = [obs] if plain else tree_leaves(tree_map(lambda _, leaf: leaf, self.obs, obs))
            for block, leaf in zip(tree_leaves(self.obs), leaves, strict=True):
                if leaf.shape != block.shape:
                    raise ValueError(f"shape {leaf.shape}, expected {block.shape}")
                np.copyto(block, leaf, casting="same_kind")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise EnvError(
                f"{self.name}: its observations do not fit {describe(self.observation_space)}: {error}.",
                "Use env.backend=gymnasium, which checks each environment separately.",
            ) from error

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

    def snapshot(self) -> dict[str, Tree]:
        """Raise EnvError: such a backend cannot reset one environment with one seed."""
        raise self._no_snapshot()

    def restore(self, state: dict[str, Tree]) -> None:
        """Raise EnvError, see `snapshot`."""
        raise self._no_snapshot()

    def _no_snapshot(self) -> EnvError:
        return EnvError(f"{self.name} has no exact snapshots with this backend.", "Use env.backend=gymnasium.")


def refuse_wrappers(env_config: EnvConfig) -> None:
    """Raise ConfigError for wrappers or frame stacking, which need single environments."""
    backend = env_config.backend
    if env_config.wrappers:
        raise ConfigError(f"env.wrappers with env.backend {backend}: it has no single environments to wrap.", _FIX)
    if env_config.frame_stack > 1:
        raise ConfigError(
            f"env.frame_stack {env_config.frame_stack} with env.backend {backend}: it has no single environments.",
            _FIX + " EnvPool's Atari environments stack frames: env.kwargs.stack_num=4.",
        )


_FIX = "Use env.backend=gymnasium."
