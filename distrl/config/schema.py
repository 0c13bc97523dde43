"""`RunConfig`: everything that defines a run, and the checks between its sections."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from distrl.base.errors import ConfigError
from distrl.config.messages import TEXT_KEYS
from distrl.config.schedule import Schedule, looks_like_schedule
from distrl.config.sections.base import Section, plain
from distrl.config.sections.env import EnvConfig
from distrl.config.sections.language import LanguageConfig
from distrl.config.sections.model import ModelConfig
from distrl.config.sections.processes import LearnerConfig, RayConfig, SamplersConfig, StoreConfig
from distrl.config.sections.run import CheckpointConfig, EvalConfig, LoggingConfig, StopConfig
from distrl.config.sections.task import TaskConfig


class RunConfig(Section):
    """Config of a run, built by `load_config`; mistakes are one-line `ConfigError`s."""

    name: str
    """Name of the run, and of its folder below `runs/`: letters, digits, `.`, `_`, `-`."""
    seed: int = Field(0, ge=0)
    """Source of all random numbers of the run. Report at least 3 seeds."""
    backend: Literal["ray", "serial"] = "ray"
    """`ray`: samplers, learner and evaluator are processes of a cluster. `serial`: all in this one, for debugging."""
    deterministic: bool = False
    """Bit-equal results for every back end and number of samplers, and after kill and resume; costs speed."""
    debug: bool = False
    """Check the schema of every batch instead of only the first one."""
    imports: list[str] = []
    """Modules or Python files with your own environments, wrappers, torsos, algorithms; imported in every process."""
    callbacks: list[str] = []
    """Objects notified of updates, episodes, checkpoints and the end: `module:Class` or a registered name."""
    init_from: str | None = None
    """Checkpoint with the initial weights and normalizers; counters, optimizer and schedules start from zero."""
    env: EnvConfig | None = None
    """The environments of a control run."""
    task: TaskConfig | None = None
    """The text task of a language-model run, in place of `env`."""
    model: ModelConfig = ModelConfig()
    language: LanguageConfig | None = None
    """The language model of a run with a `task`."""
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
    def _check_algorithm_keys(cls, value: object) -> object:
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

    @model_validator(mode="before")
    @classmethod
    def _check_not_both(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("env") is not None and value.get("task") is not None:
            raise ConfigError(
                "env and task are both set; a run has environments or a text task.",
                "Remove one. With a task, env.num_envs is task.prompts and env.kwargs is task.kwargs.",
            )
        return value

    @model_validator(mode="after")
    def _check_env_or_task(self) -> RunConfig:
        if self.env is None and self.task is None:
            raise ConfigError(
                "env is missing, and so is task.",
                "Add env: {id: CartPole-v1}, or for a language model task: {name: sort_digits}.",
            )
        if self.task is not None and self.language is None:
            raise ConfigError(
                f"task.name is {self.task.name}, but there is no language model.",
                "Add the section language, for example language={source: tiny}.",
            )
        if self.task is None and self.language is not None:
            raise ConfigError(
                "the section language is set, but there is no task.",
                "Set task.name (sort_digits, file ...) in place of env, or remove language.",
            )
        return self

    @model_validator(mode="after")
    def _check_units(self) -> RunConfig:
        unit = "environment steps" if self.task is None else "tokens"
        for steps, tokens in TEXT_KEYS.items():
            wrong, right = (tokens, steps) if self.task is None else (steps, tokens)
            section, _, key = wrong.partition(".")
            if getattr(getattr(self, section), key):
                raise ConfigError(f"{wrong} is set, but this run counts {unit}.", f"Set {right} instead.")
        return self

    @model_validator(mode="after")
    def _check_samplers(self) -> RunConfig:
        if self.samplers.count > self.streams:
            streams, total = self.stream_keys
            raise ConfigError(
                f"samplers.count {self.samplers.count} is more than {streams} {self.streams}: "
                "more samplers than streams.",
                f"Set samplers.count to at most {self.streams}, or {streams} higher "
                f"(it must divide {total} {self.parallel}).",
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
        if not least <= self.samplers.count <= most <= self.streams:
            streams, _ = self.stream_keys
            raise ConfigError(
                f"samplers.min {least}, samplers.count {self.samplers.count}, samplers.max {most} and {streams} "
                f"{self.streams} are not in rising order.",
                f"Choose min <= count <= max <= {streams}.",
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
        if not self.deterministic or self.env is None:
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
        if self.stop.eval_mean is not None and not self.eval.interval:
            key = "eval.every" if self.task is None else "eval.every_tokens"
            raise ConfigError(
                f"stop.eval_mean is set, but {key} is 0: nothing would be evaluated while training.",
                f"Set {key}, for example {key}=5000, or remove stop.eval_mean.",
            )
        return self

    @model_validator(mode="after")
    def _check_schedules(self) -> RunConfig:
        for key, value in self.algorithm.items():
            if looks_like_schedule(value):
                check_schedule(self, f"algorithm.{key}", Schedule.parse(value))
        return self

    @property
    def environment(self) -> EnvConfig:
        """The section `env` of a control run."""
        assert self.env is not None
        return self.env

    @property
    def text_task(self) -> TaskConfig:
        """The section `task` of a language-model run."""
        assert self.task is not None
        return self.task

    @property
    def env_or_task(self) -> str:
        """Id of the environment, or name of the text task."""
        return self.environment.id if self.task is None else self.task.name

    @property
    def streams(self) -> int:
        """Number of streams."""
        return self.environment.streams if self.task is None else self.task.streams

    @property
    def parallel(self) -> int:
        """Environments, or prompts of a sampling step, of all streams."""
        return self.environment.num_envs if self.task is None else self.task.prompts

    @property
    def stream_keys(self) -> tuple[str, str]:
        """Dotted keys of `streams` and `parallel`."""
        return ("env.streams", "env.num_envs") if self.task is None else ("task.streams", "task.prompts")


def check_schedule(config: RunConfig, where: str, schedule: Schedule) -> None:
    """Check that a schedule over the run fits its length."""
    if schedule.over is not None:
        return
    key, unit = ("stop.env_steps", "environment steps") if config.task is None else ("stop.tokens", "tokens")
    total = config.stop.steps
    if total is None:
        raise ConfigError(
            f"{where} has a schedule over: run, but {key} is not set.",
            f"Set {key}, or give `over` as a number of {unit}.",
        )
    if schedule.after >= total:
        raise ConfigError(
            f"{where} has a schedule after: {schedule.after}, but {key} is {total}: it would never begin.",
            f"Set `after` below {total}.",
        )


def _folder_like(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:100] or "my-run"
