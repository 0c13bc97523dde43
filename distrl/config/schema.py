"""`RunConfig`: everything that defines a run, and the checks between its sections."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from distrl.base.errors import ConfigError
from distrl.config.schedule import Schedule, looks_like_schedule
from distrl.config.sections.base import Section, plain
from distrl.config.sections.env import EnvConfig
from distrl.config.sections.language import LanguageConfig
from distrl.config.sections.model import ModelConfig
from distrl.config.sections.processes import LearnerConfig, RayConfig, SamplersConfig, StoreConfig
from distrl.config.sections.run import CheckpointConfig, EvalConfig, LoggingConfig, StopConfig

#: How ids of registered text tasks begin.
TEXT = "text/"
#: Keys of `env` that belong to environments with observations, and their defaults.
NOT_FOR_TEXT = {
    "backend": "gymnasium",
    "wrappers": [],
    "frame_stack": 1,
    "normalize_obs": False,
    "normalize_reward": False,
    "max_episode_steps": None,
}


class RunConfig(Section):
    """A whole run. Built by `load_config`, which turns every mistake into a one-line `ConfigError`."""

    name: str
    """Name of the run, and of its folder below `runs/`: letters, digits, `.`, `_`, `-`."""
    seed: int = Field(0, ge=0)
    """Where all random numbers of the run come from. Report at least 3 seeds."""
    backend: Literal["ray", "serial"] = "ray"
    """`ray`: samplers, learner and evaluator are processes of a cluster. `serial`: all in this one, for debugging."""
    deterministic: bool = False
    """Bit-equal results for every back end and number of samplers, and after kill and resume; costs speed."""
    imports: list[str] = []
    """Modules or Python files with your own environments, wrappers, torsos, algorithms; imported in every process."""
    callbacks: list[str] = []
    """Objects told about updates, episodes, checkpoints and the end: `module:Class` or a registered name."""
    init_from: str | None = None
    """Checkpoint whose weights and normalizers the run begins with; counters, optimizer and schedules begin anew."""
    env: EnvConfig
    model: ModelConfig = ModelConfig()
    language: LanguageConfig | None = None
    """The language model that learns, where `env.id` names a text task; without it the run is one of environments."""
    algorithm: dict[str, Any]
    samplers: SamplersConfig = SamplersConfig()
    learner: LearnerConfig = LearnerConfig()
    store: StoreConfig = StoreConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    stop: StopConfig
    logging: LoggingConfig = LoggingConfig()
    ray: RayConfig = RayConfig()

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?", value):
            raise ConfigError(
                f"name is {value!r}; expected a folder name: 1-100 letters, digits, '.', '_' or '-', "
                "beginning with a letter or digit, not ending in '.'.",
                f"For example: name: {_folder_like(value)}.",
            )
        return value

    @field_validator("algorithm", mode="before")
    @classmethod
    def _check_algorithm_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = plain(value, "algorithm")
        if not isinstance(keys.get("name"), str) or not keys["name"]:
            problem = f"is {keys['name']!r}; expected the name of an algorithm" if "name" in keys else "is missing"
            raise ConfigError(f"algorithm.name {problem}.", "For example: algorithm.name=ppo.")
        for key, child in keys.items():
            if looks_like_schedule(child):
                try:
                    Schedule.parse(child)
                except ValueError as error:
                    raise ConfigError(f"algorithm.{key}: {error}.") from None
        return keys

    @model_validator(mode="after")
    def _check_samplers(self) -> RunConfig:
        if self.samplers.count > self.env.streams:
            raise ConfigError(
                f"samplers.count {self.samplers.count} is more than env.streams {self.env.streams}: "
                "more samplers than streams.",
                f"Set samplers.count to at most {self.env.streams}, or env.streams higher "
                f"(it must divide env.num_envs {self.env.num_envs}).",
            )
        return self

    @model_validator(mode="after")
    def _check_language(self) -> RunConfig:
        is_text = self.env.id.startswith(TEXT)
        if is_text and self.language is None:
            raise ConfigError(
                f"env.id {self.env.id} is a text task, but there is no language model.",
                "Add the section language, for example language={source: tiny}.",
            )
        if self.language is None:
            return self
        if not is_text:
            raise ConfigError(
                f"the section language is set, but env.id {self.env.id} is no text task.",
                "Set env.id to a task (text/sort_digits, text/file ...), or remove language.",
            )
        for key, plain_value in NOT_FOR_TEXT.items():
            if getattr(self.env, key) != plain_value:
                raise ConfigError(
                    f"env.{key} is {getattr(self.env, key)!r}: answers of a language model have no such thing.",
                    f"Remove env.{key}.",
                )
        return self

    @model_validator(mode="after")
    def _check_scaling(self) -> RunConfig:
        least, most = self.samplers.min, self.samplers.max
        if least is None and most is None:
            return self
        if least is None or most is None:
            given, other = ("max", "min") if least is None else ("min", "max")
            raise ConfigError(
                f"samplers.{given} is set without samplers.{other}: a run scales itself between the two.",
                f"Set samplers.{other} as well, or remove samplers.{given}.",
            )
        if not least <= self.samplers.count <= most <= self.env.streams:
            raise ConfigError(
                f"samplers.min {least}, samplers.count {self.samplers.count}, samplers.max {most} and env.streams "
                f"{self.env.streams} are not in rising order.",
                "Choose min <= count <= max <= env.streams.",
            )
        return self

    @model_validator(mode="after")
    def _check_serial(self) -> RunConfig:
        if self.backend == "serial" and self.learner.processes > 1:
            raise ConfigError(
                f"backend serial has one process, but learner.processes is {self.learner.processes}.",
                "Use backend=ray, or learner.processes=1 (learner.shards keeps the arithmetic).",
            )
        return self

    @model_validator(mode="after")
    def _check_sharding(self) -> RunConfig:
        if self.learner.sharding is not None and self.language is None:
            raise ConfigError(
                f"learner.sharding is {self.learner.sharding}, which is for language models; the run has no section"
                " language.",
                "Remove learner.sharding: every process has the whole network.",
            )
        return self

    @model_validator(mode="after")
    def _check_deterministic(self) -> RunConfig:
        if not self.deterministic:
            return self
        if self.env.backend != "gymnasium":
            raise ConfigError(
                f"deterministic: true with env.backend {self.env.backend}: it has no exact snapshots, "
                "so a resumed run could not continue bit by bit.",
                "Use env.backend=gymnasium, or deterministic=false.",
            )
        if self.env.snapshot == "off":
            raise ConfigError(
                "deterministic: true with env.snapshot off: a resumed run could not continue bit by bit.",
                "Use env.snapshot=auto, or deterministic=false.",
            )
        return self

    @model_validator(mode="after")
    def _check_goal(self) -> RunConfig:
        if self.stop.eval_mean is not None and not self.eval.every:
            raise ConfigError(
                "stop.eval_mean is set, but eval.every is 0: nothing would be evaluated while training.",
                "Set eval.every, for example eval.every=5000, or remove stop.eval_mean.",
            )
        return self

    @model_validator(mode="after")
    def _check_schedules(self) -> RunConfig:
        for key, value in self.algorithm.items():
            if looks_like_schedule(value):
                check_schedule(f"algorithm.{key}", Schedule.parse(value), self.stop.env_steps)
        return self


def check_schedule(where: str, schedule: Schedule, env_steps: int | None) -> None:
    """A schedule over the run needs to know how long the run is.

    Raises:
        ConfigError: It spans the run, and `stop.env_steps` is not set or ends before the move begins.
    """
    if schedule.over is not None:
        return
    if env_steps is None:
        raise ConfigError(
            f"{where} has a schedule over: run, but stop.env_steps is not set.",
            "Set stop.env_steps, or give `over` as a number of environment steps.",
        )
    if schedule.after >= env_steps:
        raise ConfigError(
            f"{where} has a schedule after: {schedule.after}, but stop.env_steps is {env_steps}: it would never begin.",
            f"Set `after` below {env_steps}.",
        )


def _folder_like(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:100] or "my-run"
