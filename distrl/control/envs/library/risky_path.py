"""Gridworld whose short way is better on average and worse in the tail."""

from __future__ import annotations

from typing import Literal

import numpy as np

from distrl.base.errors import ConfigError
from distrl.control.envs.library.tabular import TabularEnv, TabularMDP

#: Row and column steps of the actions: up, right, down, left.
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


class RiskyPath(TabularEnv):
    """Path between the bottom corners: straight over ice, or around it along the top row.

    Every cell but the top row and the outer columns is ice. An arrival on ice costs `loss_scale * 2^k` with probability
    `loss_probability` times a share proportional to `2^(-loss_shape k)`: a Pareto tail cut off after `loss_levels`
    sizes; `loss_shape` 1 makes all sizes cost equally much on average. The short path has width - 1 steps, the long one
    2 (height - 1) more. With the defaults and discount 1 the short path returns 3.3 on average, -12.5 in its worst
    tenth, and -2 at its 10 % quantile; the long path always returns 2.
    """

    def __init__(
        self,
        width: int = 5,
        height: int = 3,
        loss_probability: float = 0.1,
        loss_scale: float = 4.0,
        loss_shape: float = 1.2,
        loss_levels: int = 5,
        step_reward: float = -1.0,
        goal_reward: float = 10.0,
        observation: Literal["one_hot", "index"] = "one_hot",
        render_mode: str | None = None,
    ):
        if width < 3 or height < 2 or not 0.0 <= loss_probability <= 1.0 or loss_levels < 1:
            raise ConfigError(
                f"RiskyPath of {width} x {height} cells, loss probability {loss_probability}, {loss_levels} levels.",
                "Expected width >= 3, height >= 2, a probability in [0, 1] and at least one level.",
            )
        self.width, self.height = width, height
        sizes = loss_scale * 2.0 ** np.arange(loss_levels)
        shares = 2.0 ** (-loss_shape * np.arange(loss_levels))
        self.losses = np.concatenate([[0.0], -sizes])
        self.loss_probs = np.concatenate([[1.0 - loss_probability], loss_probability * shares / shares.sum()])
        self.step_reward, self.goal_reward = float(step_reward), float(goal_reward)
        super().__init__(self._table(), observation, render_mode)

    def is_ice(self, row: int, column: int) -> bool:
        """Return True for a cell with possible losses."""
        return row > 0 and 0 < column < self.width - 1

    def _table(self) -> TabularMDP:
        cells, outcomes = self.width * self.height, len(self.loss_probs)
        probs = np.zeros((cells, 4, outcomes))
        reward = np.full((cells, 4, outcomes), self.step_reward)
        next_state = np.zeros((cells, 4, outcomes), np.int64)
        start, goal = (self.height - 1) * self.width, cells - 1
        for cell in range(cells):
            for action, (down, right) in enumerate(MOVES):
                row = min(max(cell // self.width + down, 0), self.height - 1)
                column = min(max(cell % self.width + right, 0), self.width - 1)
                after = row * self.width + column
                next_state[cell, action] = after
                if self.is_ice(row, column) and after != cell:
                    probs[cell, action] = self.loss_probs
                    reward[cell, action] += self.losses
                else:
                    probs[cell, action, 0] = 1.0
                    reward[cell, action] += self.goal_reward * (after == goal)
        return TabularMDP(probs, reward, next_state, np.arange(cells) == goal, np.eye(cells)[start])

    def __str__(self) -> str:
        rows = [["~" if self.is_ice(r, c) else "." for c in range(self.width)] for r in range(self.height)]
        rows[-1][0], rows[-1][-1] = "S", "G"
        return "\n".join("".join(row) for row in rows)
