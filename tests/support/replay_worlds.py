"""Environments made of numbers: every observation says which stream, environment, episode and step it is of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from distrl.base.columns import Columns, tree_map, tree_stack


@dataclass
class Step:
    """What the reference keeps of a transition: frames are numbers, exact in float32 and as images of one value."""

    frame: float
    history: list[float]  # frames of the stack, oldest first
    action: int
    reward: float
    terminated: bool
    truncated: bool
    first: bool
    next_history: list[float]
    burnt: bool = False


@dataclass
class Line:
    """One environment: what it shows and how its episode goes on."""

    frames: int
    counter: int
    history: list[float] = field(default_factory=list)
    first: bool = True
    burn: bool = False

    def reset(self) -> None:
        self.counter += 1
        self.history = [float(self.counter)] * self.frames
        self.first = True

    def advance(self) -> None:
        self.counter += 1
        self.history = [*self.history[1:], float(self.counter)]
        self.first = False


class World:
    """A stream of `width` environments whose fragments and true transitions are both known.

    Args:
        kind: "box", "image", "channels", "dict".
        frames: Length of the frame stack.
        burns: The step after an episode is burnt.
    """

    def __init__(self, stream: int, width: int, kind: str, frames: int, burns: bool, rng: np.random.Generator):
        self.stream, self.width, self.kind, self.frames, self.burns, self.rng = stream, width, kind, frames, burns, rng
        self.lines = [Line(frames, 1000 * (stream * width + b)) for b in range(width)]
        self.ended = [False] * width
        for line in self.lines:
            line.reset()

    def fragment(self, steps: int, p_end: float = 0.25) -> tuple[Columns, list[list[Step]]]:
        """A rollout (T, B) and its steps [t][b]."""
        table: list[list[Step]] = []
        finals: list[Any] = []
        index: list[tuple[int, int]] = []
        for t in range(steps):
            row = []
            for b, line in enumerate(self.lines):
                step = self._step(line, p_end)
                if step.truncated and not step.terminated:
                    finals.append(observation(self.kind, step.next_history))
                    index.append((t, b))
                row.append(step)
            table.append(row)
        obs = [tree_stack([observation(self.kind, s.history) for s in row]) for row in table]
        empty = tree_map(lambda leaf: leaf[:0], obs[0])

        def column(name: str, dtype: Any) -> np.ndarray:
            return np.array([[getattr(s, name) for s in row] for row in table], dtype)

        columns: dict[str, Any] = {
            "obs": tree_stack(obs),
            "action": column("action", np.int64),
            "reward": column("reward", np.float32),
            "terminated": column("terminated", bool),
            "truncated": column("truncated", bool),
            "first": column("first", bool),
            "last_obs": tree_stack([observation(self.kind, line.history) for line in self.lines]),
            "final_obs": tree_stack(finals) if finals else empty,
            "final_index": np.array(index, np.int64).reshape(-1, 2),
            "logp": -column("reward", np.float32),
        }
        if self.burns:
            columns["valid"] = ~column("burnt", bool)
        return Columns(**columns), table

    def skip(self) -> None:
        """Steps that are made and lost."""
        self.fragment(2)

    def _step(self, line: Line, p_end: float) -> Step:
        history, first = list(line.history), line.first
        if line.burn:
            line.burn = False
            line.reset()
            return Step(history[-1], history, 0, 0.0, False, False, first, history, burnt=True)
        terminated, truncated = self.rng.random() < p_end / 2, self.rng.random() < p_end / 2
        line.advance()
        step = Step(
            history[-1],
            history,
            int(self.rng.integers(5)),
            float(self.rng.integers(-8, 9)),
            bool(terminated),
            bool(truncated),
            first,
            list(line.history),
        )
        if terminated or truncated:
            if self.burns:
                line.burn = True  # the final observation is shown once more
            else:
                line.reset()
        return step


def observation(kind: str, history: list[float]) -> Any:
    """The observation of a stack of frames."""
    stacked = np.array(history, np.float32)
    if kind == "box":
        return np.array([history[-1], -history[-1]], np.float32) if len(history) == 1 else stacked[:, None]
    if kind == "image":  # (F, 3, 2) of frames (3, 2)
        image = np.broadcast_to(stacked[:, None, None], (len(history), 3, 2)) % 251
        return (image if len(history) > 1 else image[0]).astype(np.uint8)
    if kind == "channels":  # (6, 5, 3 F) of frames (6, 5, 3)
        return np.repeat(np.broadcast_to(stacked % 251, (6, 5, len(history))), 3, axis=2).astype(np.uint8)
    pair = (stacked[:, None] * 2, (stacked[:, None] % 251).astype(np.uint8))
    return {"a": stacked[:, None], "b": pair} if len(history) > 1 else {"a": stacked, "b": (pair[0][0], pair[1][0])}


def space(kind: str, frames: int) -> spaces.Space[Any]:
    """The space of `observation`."""

    def box(leaf: np.ndarray) -> spaces.Box:
        high = 255 if leaf.dtype == np.uint8 else np.inf
        return spaces.Box(0 if leaf.dtype == np.uint8 else -np.inf, high, leaf.shape, leaf.dtype.type)

    shown = observation(kind, [0.0] * frames)
    if kind != "dict":
        return box(shown)
    return spaces.Dict(a=box(shown["a"]), b=spaces.Tuple([box(leaf) for leaf in shown["b"]]))
