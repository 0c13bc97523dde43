"""MDPs as tables, and gymnasium environments that play them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from distrl.base.errors import ConfigError

#: Name under which `info` of a step holds the rewards of an environment with several reward channels, (K,) float64.
REWARD_CHANNELS = "reward_channels"


@dataclass(frozen=True)
class TabularMDP:
    """States, actions, and for each pair the joint law of reward and next state.

    Args:
        probs: (S, A, M), the outcomes' probabilities; 0 pads.
        reward: (S, A, M), or (S, A, M, K) with K reward channels.
        next_state: (S, A, M) int.
        terminal: (S,) bool: the episode ends on arrival there.
        initial: (S,), distribution of the first state.
        gamma: The discount for which the closed forms are made; the environment itself does not use it.
        std: Like `reward`: noise added to the reward of an outcome; None for none.
        degrees: Degrees of freedom of that noise: Student's t, infinity for the normal distribution.
        weights: (K,): the reward that a step gives is the channels' sum under these weights.

    Raises:
        ConfigError: Shapes that do not fit, or probabilities that do not sum to 1.
    """

    probs: np.ndarray
    reward: np.ndarray
    next_state: np.ndarray
    terminal: np.ndarray
    initial: np.ndarray
    gamma: float = 1.0
    std: np.ndarray | None = None
    degrees: float = float("inf")
    weights: np.ndarray = field(default_factory=lambda: np.ones(1))

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

    def scalar(self) -> TabularMDP:
        """The same MDP with the weighted sum of its channels as its only reward."""
        if self.reward.ndim == 3:
            return self
        std = None if self.std is None else np.sqrt(self.std**2 @ self.weights**2)
        return TabularMDP(
            self.probs, self.reward @ self.weights, self.next_state, self.terminal, self.initial, self.gamma, std,
            self.degrees,
        )  # fmt: skip

    def transition(self) -> np.ndarray:
        """(S, A, S); a row lacks the probability that the episode ends."""
        table = np.zeros((self.num_states, self.num_actions, self.num_states))
        s, a, _ = np.indices(self.probs.shape)
        np.add.at(table, (s, a, self.next_state), np.where(self.terminal[self.next_state], 0.0, self.probs))
        return table

    def mean_reward(self) -> np.ndarray:
        """(S, A), of the weighted sum of the channels."""
        return (self.probs * self.scalar().reward).sum(-1)


class TabularEnv(gymnasium.Env[Any, Any]):
    """Plays a `TabularMDP`. With several reward channels, `info["reward_channels"]` of a step has them apart.

    Args:
        mdp: What to play.
        observation: `one_hot`: (S,) float32, or `index`: Discrete(S).
        render_mode: Not supported; here because gymnasium passes it.

    Attributes:
        reward_channels: K.
    """

    metadata: dict[str, Any] = {"render_modes": []}

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

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `options={"state": s}` begins it in state s."""
        super().reset(seed=seed)
        chosen = (options or {}).get("state")
        self.state = int(self.np_random.choice(self.mdp.num_states, p=self.mdp.initial) if chosen is None else chosen)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        mdp, s, a = self.mdp, self.state, int(action)
        # the last outcome of a cumulative sum that rounds to less than 1 takes what is left
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

    def observe(self) -> Any:
        """The observation of the present state."""
        return self.state if self._index else self._rows[self.state].copy()

    def _noise(self, shape: tuple[int, ...]) -> Any:
        if np.isinf(self.mdp.degrees):
            return self.np_random.standard_normal(shape)
        return self.np_random.standard_t(self.mdp.degrees, shape)
