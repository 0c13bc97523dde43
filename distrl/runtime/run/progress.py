"""`RunProgress`: counters of a run, for the stop rule, the curves and the summary."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from distrl.base.pack import State
from distrl.config.sections.run import StopConfig
from distrl.experience.fragment import EpisodeReport

SAVED = ("version", "env_steps", "episodes", "evaluated_at", "best")  # as they are, in checkpoints


@dataclass
class RunProgress:
    """Counters that change at update boundaries, from consumed data only."""

    window: int
    version: int = 0  # published updates
    env_steps: int = 0
    episodes: int = 0
    returns: deque[float] = field(default_factory=deque)  # of the last `window` episodes
    evaluated_at: int = 0  # `env_steps` at the newest evaluation
    checkpointed_at: int = 0
    best: float | None = None  # mean return of the best evaluation
    evals: list[tuple[int, float]] = field(default_factory=list)  # environment steps, mean return
    wall_before: float = 0.0  # seconds of earlier attempts
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.returns = deque(self.returns, self.window)

    @property
    def wall_seconds(self) -> float:
        return self.wall_before + time.monotonic() - self.started

    @property
    def return_mean(self) -> float | None:
        """Mean return of the last `window` episodes; None with fewer episodes."""
        return sum(self.returns) / len(self.returns) if len(self.returns) >= self.window else None

    def consume(self, env_steps: int, episodes: Iterable[EpisodeReport]) -> None:
        self.env_steps += env_steps
        for episode in episodes:
            self.episodes += 1
            self.returns.append(episode.return_)

    @property
    def last_eval(self) -> float | None:
        return self.evals[-1][1] if self.evals else None

    def eval_reason(self, stop: StopConfig) -> str | None:
        """Return why the evaluations end the run, or None."""
        if stop.eval_mean is None:
            return None
        means = [mean for _, mean in self.evals[-stop.eval_in_a_row :]]
        if len(means) < stop.eval_in_a_row or min(means) < stop.eval_mean:
            return None
        row = f", {len(means)} in a row" if len(means) > 1 else ""
        return f"eval_mean {means[-1]:.1f} reached {stop.eval_mean:g}{row}"

    def stop_reason(self, stop: StopConfig) -> str | None:
        if stop.return_mean is not None and self.return_mean is not None and self.return_mean >= stop.return_mean:
            return f"return_mean {self.return_mean:.1f} reached {stop.return_mean:g}"
        if (goal := self.eval_reason(stop)) is not None:
            return goal
        if stop.steps is not None and self.env_steps >= stop.steps:
            return f"{'tokens' if stop.env_steps is None else 'env_steps'} reached {stop.steps}"
        if stop.updates is not None and self.version >= stop.updates:
            return f"updates reached {stop.updates}"
        if stop.wall_seconds is not None and self.wall_seconds >= stop.wall_seconds:
            return f"wall_seconds reached {stop.wall_seconds:g}"
        return None

    def to_state(self) -> dict[str, object]:
        return {
            **{name: getattr(self, name) for name in SAVED},
            "returns": list(self.returns),
            "evals": [list(entry) for entry in self.evals],
            "wall_seconds": self.wall_seconds,
        }

    @classmethod
    def from_state(cls, window: int, state: State) -> RunProgress:
        return cls(
            window,
            **{name: state[name] for name in SAVED},
            returns=deque(state["returns"]),
            checkpointed_at=state["env_steps"],
            evals=[(steps, mean) for steps, mean in state["evals"]],
            wall_before=state["wall_seconds"],
        )
