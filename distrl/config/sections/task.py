"""Section `task`: the text task that a language model is trained on."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from distrl.config.sections.base import DERIVED, Section, plain
from distrl.config.sections.env import DEFAULT_STREAMS, check_streams, largest_divisor


class TaskConfig(Section):
    """The text task that a language model is trained on; in place of `env`."""

    name: str = Field(min_length=1)
    """The task: a registered name such as `sort_digits` or `file`, or `module:Class` of your own."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the task's constructor."""
    prompts: int = Field(8, ge=1)
    """Prompts of one sampling step; an update has `algorithm.rollout_steps` steps. More give a steadier gradient and
    fewer updates per token. Usual: 8-512."""
    streams: int = Field(DERIVED, ge=1)
    """Seed lines that the prompts are split into; it bounds the useful samplers and must divide `prompts`. Default: the
    largest divisor of `prompts` up to 8. Usual: 1-16."""

    @field_validator("kwargs", mode="before")
    @classmethod
    def _plain_kwargs(cls, value: object) -> object:
        return plain(value, "task.kwargs")

    @field_validator("streams", mode="before")
    @classmethod
    def _default_streams(cls, value: object, info: ValidationInfo) -> object:
        return largest_divisor(info.data.get("prompts", 1), DEFAULT_STREAMS) if value is None else value

    @model_validator(mode="after")
    def _streams_divide(self) -> TaskConfig:
        check_streams("task.streams", self.streams, "task.prompts", self.prompts)
        return self
