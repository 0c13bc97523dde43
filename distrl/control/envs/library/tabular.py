"""Tabular MDPs and gymnasium environments of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.control.envs.backends.masks import Info

#: Key of `info` with the rewards (K,) float64 of an environment with several reward channels.
REWARD_CHANNELS = "reward_channels"


@dataclass(frozen=True)
class TabularMDP:
    """Joint distribution of reward and next state for each state and action."""

    probs: np.ndarray  # (S, A, M), the outcomes' probabilities; 0 pads
    reward: np.ndarray  # (S, A, M), or (S, A, M, K) with K reward channels
    next_state: np.ndarray  # (S, A, M) int
    terminal: np.ndarray  # (S,) bool: the episode ends on arrival
    initial: np.ndarray  # (S,), distribution of the first state
    gamma: float = 1.0  # discount of closed forms; not used by the environment
    std: np.ndarray | None = None  # as `reward`: standard deviation of the reward's noise; None for none
    degrees: float = float("inf")  # of freedom of that noise (Student's t); infinity for the normal distribution
    weights: np.ndarray = field(default_factory=lambda: np.ones(1))  # (K,), of the channels in the reward of a step

    def __post_init__(self) -> None:
        shape = self.probs.shape
        fitting = self.next_state.shape == shape == self.reward.shape[:3] and self.initial.shape == (shape[0],)
        if len(shape) != 3 or not fitting or self.terminal.shape != (shape[0],):
            found = {name: np.shape(getattr(self, name)) for name in ("probs", "reward", "next_state", "initial")}
            raise ConfigError(
                f"a TabularMDP with shapes {found}.", "probs, next_state, reward: (S, A, M); initial: (S,)."
            )
        sums = self.probs[~self.terminal].sum(-1)
        if (self.probs < 0).any() or not np.allclose(sums, 1.0) or not np.isclose(self.initial.sum(), 1.0):
            raise ConfigError(
                f"a TabularMDP whose outcomes' probabilities sum to {sums.min():g}..{sums.max():g} and whose initial"
                f" ones sum to {self.initial.sum():g}.",
                "They must be at least 0 and sum to 1.",
            )

    @property
    def num_states(self) -> int:
        return self.probs.shape[0]

    @property
    def num_actions(self) -> int:
        return self.probs.shape[1]

    @property
    def num_channels(self) -> int:
        """K; 1 where `reward` has no channel axis."""
        return self.reward.shape[3] if self.reward.ndim == 4 else 1


class TabularEnv(gymnasium.Env):
    """Environment of a `TabularMDP`, with `info["reward_channels"]` if there are several.

    Observations are `one_hot` (S,) float32, or `index` Discrete(S).
    """

    metadata: Info = {"render_modes": []}

    def __init__(
        self, mdp: TabularMDP, observation: Literal["one_hot", "index"] = "one_hot", render_mode: str | None = None
    ):
        if observation not in ("one_hot", "index"):
            raise ConfigError(f"observation is {observation!r}.", "Expected one_hot or index.")
        self.mdp, self.render_mode = mdp, render_mode
        self.reward_channels = mdp.num_channels
        self.state = 0
        self._index = observation == "index"
        size = mdp.num_states
        self.observation_space = Discrete(size) if self._index else Box(0.0, 1.0, (size,), np.float32)
        self.action_space = Discrete(mdp.num_actions)
        self._cumulative = mdp.probs.cumsum(-1)
        self._rows = np.eye(size, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Tree, Info]:
        """Begin an episode, with `options={"state": s}` in state s."""
        super().reset(seed=seed)
        chosen = (options or {}).get("state")
        self.state = int(self.np_random.choice(self.mdp.num_states, p=self.mdp.initial) if chosen is None else chosen)
        return self.observe(), {}

    def step(self, action: Tree) -> tuple[Tree, float, bool, bool, Info]:
        mdp, s, a = self.mdp, self.state, int(action)
        # a cumulative sum that rounds to less than 1 is scaled
        row = self._cumulative[s, a]
        m = int(np.searchsorted(row, self.np_random.random() * row[-1], side="right"))
        reward = mdp.reward[s, a, m]
        if mdp.std is not None:
            reward = reward + mdp.std[s, a, m] * self._noise(np.shape(reward))
        self.state = int(mdp.next_state[s, a, m])
        ended = bool(mdp.terminal[self.state])
        if mdp.reward.ndim == 3:
            return self.observe(), float(reward), ended, False, {}
        return self.observe(), float(reward @ mdp.weights), ended, False, {REWARD_CHANNELS: np.array(reward)}

    def observe(self) -> Tree:
        """Return the observation of the present state."""
        return self.state if self._index else self._rows[self.state].copy()

    def _noise(self, shape: tuple[int, ...]) -> Tree:
        if np.isinf(self.mdp.degrees):
            return self.np_random.standard_normal(shape)
        return self.np_random.standard_t(self.mdp.degrees, shape)
