"""`View`: the state of a run for displays."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

# Seconds over which the shown speed is averaged.
SPEED_WINDOW = 20.0


@dataclass(frozen=True)
class Goal:
    """End of the run for the progress bar; the first given value is used."""

    env_steps: int | None = None
    updates: int | None = None
    target_return: float | None = None


class Speed:
    """Environment steps and updates per second over the last `SPEED_WINDOW` seconds."""

    def __init__(self, now: float, env_steps: int, update: int):
        self._marks: deque[tuple[float, int, int]] = deque([(now, env_steps, update)])

    def mark(self, now: float, env_steps: int, update: int) -> None:
        """Remember where the run is; marks nearer than a quarter second replace each other."""
        if len(self._marks) > 1 and now - self._marks[-2][0] < 0.25:
            self._marks.pop()
        self._marks.append((now, env_steps, update))
        while len(self._marks) > 2 and now - self._marks[1][0] > SPEED_WINDOW:
            self._marks.popleft()

    def read(self, now: float) -> tuple[float, float]:
        """Return steps and updates per second; they fall while the run is stalled."""
        (begin, steps, updates), (_, last_steps, last_updates) = self._marks[0], self._marks[-1]
        seconds = max(now - begin, 1e-9)
        return (last_steps - steps) / seconds, (last_updates - updates) / seconds


@dataclass(frozen=True)
class View:
    """A run at one moment; speeds are recent ones, `latest` has the newest value of every tag."""

    env_steps: int
    update: int
    wall_s: float
    steps_per_s: float
    updates_per_s: float
    latest: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    last_event: str = ""
    goal: Goal = Goal()

    @property
    def return_mean(self) -> float | None:
        """The newest training return, over the last episodes if available."""
        return _first(self.latest, ("return/mean_last_", "return/mean", "return/"))

    @property
    def eval_mean(self) -> float | None:
        """The newest evaluation."""
        return _first(self.latest, ("eval/return_mean", "eval/return"))

    def progress(self) -> tuple[float, str] | None:
        """Return the fraction of the goal in [0, 1] and its text; None if unknown."""
        if self.goal.env_steps:
            return _clamp(self.env_steps / self.goal.env_steps), f"{self.env_steps:,}/{self.goal.env_steps:,} steps"
        if self.goal.updates:
            return _clamp(self.update / self.goal.updates), f"{self.update:,}/{self.goal.updates:,} updates"
        if self.goal.target_return is not None and self.return_mean is not None and self.goal.target_return > 0:
            fraction = self.return_mean / self.goal.target_return
            return _clamp(fraction), f"return {self.return_mean:.1f}/{self.goal.target_return:.1f}"
        return None

    def eta(self) -> float | None:
        """Return the remaining seconds at the recent speed; None if unknown."""
        if self.goal.env_steps and self.steps_per_s > 0:
            return max(self.goal.env_steps - self.env_steps, 0) / self.steps_per_s
        if not self.goal.env_steps and self.goal.updates and self.updates_per_s > 0:
            return max(self.goal.updates - self.update, 0) / self.updates_per_s
        return None

    def one_line(self) -> str:
        """Format steps, share, return, evaluation, speed and remaining time for logs."""
        progress, eta = self.progress(), self.eta()
        parts = [progress[1] if progress else f"{self.env_steps:,} steps"]
        if progress:
            parts[0] += f" {progress[0]:.0%}"
        parts += self._results()
        parts.append(f"{self.steps_per_s:,.0f} steps/s")
        if eta is not None:
            parts.append(f"ETA {clock(eta)}")
        return " | ".join(parts)

    def rows(self) -> list[str]:
        """Format results, facts, time shares and the last event for the live display."""
        results = [*self._results(), f"{self.steps_per_s:,.0f} steps/s", f"update {self.update:,}"]
        numbers = [f"{name} {_number(value)}" for name, value in self.facts.items() if not isinstance(value, Mapping)]
        shares = [
            f"{name} {share:.0%}"
            for value in self.facts.values()
            if isinstance(value, Mapping)
            for name, share in sorted(value.items(), key=lambda entry: -entry[1])
        ]
        return [row for row in ("  ".join(results), "  ".join(numbers), "  ".join(shares), self.last_event) if row]

    def _results(self) -> list[str]:
        found = []
        if self.return_mean is not None:
            found.append(f"return {self.return_mean:.1f}")
        if self.eval_mean is not None:
            found.append(f"eval {self.eval_mean:.1f}")
        return found


def clock(seconds: float) -> str:
    """Format seconds.

    >>> clock(75), clock(7322)
    ('1:15', '2:02:02')
    """
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def facts_text(facts: Mapping[str, object]) -> str:
    """Format facts in one line.

    >>> facts_text({"update": 3, "reason": "max_steps"})
    'update=3 reason=max_steps'
    """
    return " ".join(f"{name}={_number(value)}" for name, value in facts.items())


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings, names joined by dots.

    >>> flatten({"env": {"id": "CartPole-v1"}, "seed": 0})
    {'env.id': 'CartPole-v1', 'seed': 0}
    """
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _first(latest: Mapping[str, float], prefixes: tuple[str, ...]) -> float | None:
    # A copy: the display reads from its own thread while the learner adds tags.
    known = list(latest.items())
    return next((float(value) for prefix in prefixes for name, value in known if name.startswith(prefix)), None)


def _clamp(fraction: float) -> float:
    return min(max(fraction, 0.0), 1.0)
