"""Sections `eval`, `checkpoint`, `stop` and `logging`: the course of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from distrl.base.errors import ConfigError
from distrl.config.sections.base import DERIVED, Section


class EvalConfig(Section):
    """Evaluation during training, on separate environments and seeds."""

    every: int = Field(0, ge=0)
    """Environment steps between evaluations; 0 means never. Usual: 20-100 evaluations a run."""
    every_tokens: int = Field(0, ge=0)
    """Trained tokens between evaluations of a text task; 0 means never. Usual: 20-100 evaluations a run."""
    episodes: int = Field(10, ge=1)
    """Episodes, or held-out items of a text task, per evaluation. More give a steadier number. Usual: 10-100."""
    num_envs: int = Field(DERIVED, ge=1)
    """Environments of the evaluator. Default: one for each episode, at most 16."""
    deterministic: bool = True
    """Take the most likely action instead of a sampled one."""
    seed: int | None = Field(None, ge=0)
    """Seed of the episodes: runs of different seeds with the same one meet the same starts. Default: the run's."""

    @field_validator("num_envs", mode="before")
    @classmethod
    def _default_num_envs(cls, value: object, info: ValidationInfo) -> object:
        return min(info.data.get("episodes", 1), 16) if value is None else value

    @property
    def interval(self) -> int:
        """Steps of the loop between evaluations: environment steps or tokens."""
        return self.every or self.every_tokens


class CheckpointConfig(Section):
    """When the run is saved."""

    every: int = Field(0, ge=0)
    """Environment steps between checkpoints; 0 means only by time and at the end."""
    every_tokens: int = Field(0, ge=0)
    """Trained tokens between checkpoints of a text task; 0 means only by time and at the end."""
    every_seconds: float = Field(60.0, ge=0)
    """Seconds between checkpoints; 0 means never by time. A crash loses at most this. Usual: 30-600."""
    keep: int = Field(3, ge=1)
    """Number of newest checkpoints that are kept, besides the best one. Usual: 1-5."""

    @property
    def interval(self) -> int:
        """Steps of the loop between checkpoints: environment steps or tokens."""
        return self.every or self.every_tokens


class StopConfig(Section):
    """Stop conditions, checked after every update; the first one met ends the run."""

    env_steps: int | None = Field(None, ge=1)
    """Environment steps consumed by the learner."""
    tokens: int | None = Field(None, ge=1)
    """Tokens of answers consumed by the learner of a text task."""
    return_mean: float | None = None
    """Mean return of the last `window` finished training episodes."""
    eval_mean: float | None = None
    """Mean return of `eval_in_a_row` evaluations in a row, each of them at least this. Needs `eval.every` or
    `eval.every_tokens`."""
    wall_seconds: float | None = Field(None, gt=0)
    """Seconds since the start, all attempts together."""
    updates: int | None = Field(None, ge=1)
    """Learner updates."""
    window: int = Field(20, ge=1)
    """Episodes that `return_mean` averages over. Usual: 20-100."""
    eval_in_a_row: int = Field(1, ge=1)
    """Evaluations that must reach `eval_mean` one after the other: one alone may be luck. Usual: 1-3."""

    @model_validator(mode="after")
    def _some_end(self) -> StopConfig:
        ends = ("env_steps", "tokens", "return_mean", "eval_mean", "wall_seconds", "updates")
        if all(getattr(self, end) is None for end in ends):
            raise ConfigError(
                f"stop has none of {', '.join(ends)}; the run would never end.",
                "Set one, for example stop.updates=1000.",
            )
        return self

    @property
    def steps(self) -> int | None:
        """Length of the run in steps of the loop: environment steps or tokens."""
        return self.tokens if self.env_steps is None else self.env_steps


class LoggingConfig(Section):
    """Display and log files."""

    every_seconds: float = Field(1.0, gt=0)
    """Seconds between two points of the curves and lines of the display. Usual: 1-30."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    console: Literal["auto", "rich", "plain", "quiet"] = "auto"
    """Display: `rich` (live), `plain` (lines, for log files), `quiet`, or `auto` (rich in a terminal, else plain)."""
