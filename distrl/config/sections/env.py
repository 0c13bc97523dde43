"""Section `env`: the environments, and how observations reach the policy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from distrl.base.errors import ConfigError
from distrl.config.sections.base import DERIVED, Section, plain

#: Neither more streams nor more samplers than this help small environments; the default for `env.streams`.
DEFAULT_STREAMS = 8


class EnvConfig(Section):
    """Environments, wrappers and normalization."""

    id: str = Field(min_length=1)
    """The environment: a Gymnasium id such as `CartPole-v1`, or `module:Class` of your own."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the environment's constructor."""
    num_envs: int = Field(8, ge=1)
    """Environments in parallel. More give larger, less correlated batches and faster forward passes, and fewer updates
    per environment step. Usual: 1-64."""
    streams: int = Field(DERIVED, ge=1)
    """Seed lines that the environments are split into; it bounds the useful samplers and must divide `num_envs`.
    Default: the largest divisor of `num_envs` up to 8. Usual: 1-16."""
    backend: Literal["gymnasium", "vector", "envpool"] = "gymnasium"
    """Backend of the environments. `gymnasium`: our loop over single ones, exact and resumable. `vector`: the
    environment's native vector version. `envpool`: EnvPool. The last two are fast, lose a step at resets and have no
    snapshots."""
    wrappers: list[str | dict[str, Any]] = []
    """Wrappers around each environment, innermost first: a registered name, `module:Class`, or `{NAME: {kwargs}}`."""
    frame_stack: int = Field(1, ge=1)
    """Newest observations stacked on a new leading axis, so that the policy sees motion. Usual: 1; Atari: 4."""
    normalize_obs: bool = False
    """Scale observations to zero mean and unit variance with running statistics. Helps where scales differ (MuJoCo)."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return. Helps where returns are large."""
    clip_obs: float = Field(10.0, gt=0)
    """Bound of a normalized observation's absolute value. Only with `normalize_obs`. Usual: 5-10."""
    clip_reward: float = Field(10.0, gt=0)
    """Bound of a normalized reward's absolute value. Only with `normalize_reward`. Usual: 5-10."""
    max_episode_steps: int | None = Field(None, ge=1)
    """Time limit of an episode in steps; reaching it truncates. Default: the environment's own."""
    snapshot: Literal["auto", "off"] = "auto"
    """`auto`: checkpoints continue running episodes where the environment allows. `off`: checkpoints forget them and
    a resumed run begins new ones."""

    @field_validator("id")
    @classmethod
    def _no_text_task(cls, value: str) -> str:
        if value.startswith("text/"):
            name = value.removeprefix("text/")
            raise ConfigError(
                f"env.id is {value!r}: text tasks have a section task in place of env.",
                f"Write task: {{name: {name}, prompts: 8}}; env.num_envs is task.prompts, env.kwargs is task.kwargs.",
            )
        return value

    @field_validator("kwargs", mode="before")
    @classmethod
    def _plain_kwargs(cls, value: object) -> object:
        return plain(value, "env.kwargs")

    @field_validator("wrappers", mode="before")
    @classmethod
    def _check_wrappers(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        for i, entry in enumerate(value):
            called = isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict | None)
            if not called and not (isinstance(entry, str) and entry):
                raise ConfigError(
                    f"env.wrappers[{i}] is {entry!r}; expected a name or {{NAME: {{kwargs}}}}.",
                    "For example: wrappers: [my_module:Clip, {my_module:Repeat: {times: 4}}].",
                )
        return plain(value, "env.wrappers")

    @field_validator("streams", mode="before")
    @classmethod
    def _default_streams(cls, value: object, info: ValidationInfo) -> object:
        num_envs = info.data.get("num_envs", 1)
        return largest_divisor(num_envs, DEFAULT_STREAMS) if value is None else value

    @model_validator(mode="after")
    def _streams_divide(self) -> EnvConfig:
        check_streams("env.streams", self.streams, "env.num_envs", self.num_envs)
        return self

    @property
    def envs_per_stream(self) -> int:
        """Environments of one stream."""
        return self.num_envs // self.streams

    @property
    def wrapper_calls(self) -> list[tuple[str, dict[str, Any]]]:
        """`wrappers` as (name, keyword arguments), innermost first."""
        calls: list[tuple[str, dict[str, Any]]] = []
        for entry in self.wrappers:
            name, kwargs = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
            calls.append((name, dict(kwargs or {})))
        return calls


def check_streams(streams_key: str, streams: int, total_key: str, total: int) -> None:
    """Check that streams have equal shares of the environments or prompts."""
    if total % streams:
        divisors = [str(d) for d in range(1, total + 1) if total % d == 0]
        raise ConfigError(
            f"{streams_key} {streams} does not divide {total_key} {total}.",
            f"Set {streams_key} to one of {', '.join(divisors[:12])}.",
        )


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of `number` up to `limit`.

    >>> largest_divisor(12, 8)
    6
    """
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
