"""`AlgorithmConfig`: keys that all algorithms share, and the check of an algorithm's own.

Every algorithm subclasses it in its own file; `RunConfig` carries the keys as a plain dict, so a config is loaded and
its other sections are checked without importing any algorithm.
"""

from __future__ import annotations

from typing import Self, TypeVar

from pydantic import Field, PrivateAttr, ValidationError

from distrl.base.errors import ConfigError
from distrl.config.messages import keys_of, translate
from distrl.config.schedule import Schedule, Scheduled
from distrl.config.schema import RunConfig, check_schedule
from distrl.config.sections.base import Section

Config = TypeVar("Config", bound="AlgorithmConfig")


class AlgorithmConfig(Section):
    """Keys that every algorithm has."""

    name: str
    """The algorithm: a registered name (`distrl methods` lists them) or `module:Class`."""
    learning_rate: Scheduled[float] = Field(3e-4, ge=0)
    """Step size of the optimizer. Too large diverges, too small crawls. Usual: 1e-4 to 1e-3, falling to 0."""
    gamma: Scheduled[float] = Field(0.99, ge=0, le=1)
    """Discount: rewards 1/(1-gamma) steps ahead still count. Lower: faster, shorter-sighted. Usual: 0.9-0.999."""
    rollout_steps: int = Field(32, ge=1)
    """Time steps of each environment in one batch. Longer: less bias, larger batches, fewer updates. Usual: 5-2048."""
    max_grad_norm: float | None = Field(0.5, gt=0)
    """Gradients longer than this are scaled down to it; null turns that off. Usual: 0.5-40."""

    _schedules: tuple[tuple[str, Schedule, bool], ...] = PrivateAttr(())  # (field, schedule, rounded to an integer)

    def model_post_init(self, context: object, /) -> None:
        """Note which fields change, so that `at` costs nothing where none does."""
        self._schedules = tuple(
            (name, value, type(self).model_fields[name].annotation is int)
            for name, value in self.__dict__.items()
            if isinstance(value, Schedule)
        )

    def at(self, env_steps: int, total: int | None = None) -> Self:
        """Replace every schedule by its value after `env_steps` of a run of length `total`."""
        if not self._schedules:
            return self
        numbers: dict[str, float] = {}
        for name, schedule, integer in self._schedules:
            value = schedule.at(env_steps, total)
            numbers[name] = round(value) if integer else value
        fixed = self.model_copy(update=numbers)
        fixed._schedules = ()
        return fixed

    @property
    def schedules(self) -> dict[str, Schedule]:
        """Scheduled fields."""
        return {name: schedule for name, schedule, _ in self._schedules}


def known_keys(algorithm: type[AlgorithmConfig] = AlgorithmConfig) -> list[str]:
    """List every dotted key that a config with this algorithm may have."""
    return [*keys_of(RunConfig), *keys_of(algorithm, "algorithm.")]


def check_algorithm(config: RunConfig, algorithm: type[Config]) -> Config:
    """Check the keys of `algorithm:` against the algorithm's own model."""
    try:
        checked = algorithm.model_validate(config.algorithm)
    except ValidationError as error:
        raise translate(error, known_keys(algorithm), ("algorithm",)) from None
    for name, schedule in checked.schedules.items():
        check_schedule(config, f"algorithm.{name}", schedule)
    check_batch(config, checked)
    check_replay(config, checked)
    return checked


def check_batch(config: RunConfig, algorithm: AlgorithmConfig) -> None:
    """Check that a batch splits into equal minibatches with a row for every shard.

    Feed-forward policies split the batch by steps, recurrent ones by environments (whole sequences).
    """
    minibatch = minibatch_rows(config, algorithm)
    if minibatch < config.learner.shards:
        raise ConfigError(
            f"a minibatch has {minibatch} {_row_name(config)}, fewer than learner.shards {config.learner.shards}.",
            f"Set learner.shards to at most {minibatch}, or make minibatches larger.",
        )


def check_replay(config: RunConfig, algorithm: AlgorithmConfig) -> None:
    """Check the numbers of an off-policy run against each other."""
    if not hasattr(algorithm, "replay_ratio"):
        return
    batch = algorithm.rollout_steps * config.parallel
    capacity, starts = config.store.capacity, algorithm.learning_starts  # type: ignore[attr-defined]
    if capacity < batch:
        raise ConfigError(
            f"store.capacity {capacity} is less than one batch of fragments: {batch} steps "
            f"(rollout_steps {algorithm.rollout_steps} x env.num_envs {config.parallel}).",
            f"Set store.capacity to at least {batch}.",
        )
    if capacity < starts:
        raise ConfigError(
            f"store.capacity {capacity} is less than algorithm.learning_starts {starts}.",
            f"Set store.capacity to at least {starts}.",
        )
    if config.learner.shards > 1:
        raise ConfigError(
            f"learner.shards is {config.learner.shards}: off-policy learners do not split their minibatches.",
            "Set learner.shards=1 and learner.processes=1.",
        )
    if config.model.recurrent is not None:
        raise ConfigError(
            f"model.recurrent is {config.model.recurrent}, but replayed transitions are single steps without memory.",
            "Set model.recurrent=null; env.frame_stack shows motion, or use an on-policy algorithm.",
        )
    if config.store.shards > config.streams:
        raise ConfigError(
            f"store.shards {config.store.shards} is more than env.streams {config.streams}: "
            "a stream's experience stays in one shard.",
            f"Set store.shards to at most {config.streams}.",
        )


def minibatch_rows(config: RunConfig, algorithm: AlgorithmConfig) -> int:
    """Count the rows of a minibatch: steps, or whole sequences with a recurrent policy."""
    steps, envs = algorithm.rollout_steps, config.parallel
    if hasattr(algorithm, "replay_ratio"):  # drawn from the replay
        return int(algorithm.batch_size)  # type: ignore[attr-defined]
    recurrent = config.model.recurrent is not None
    batch = envs if recurrent else steps * envs
    key = config.stream_keys[1]
    made_of = f"{key} {envs}" if recurrent else f"rollout_steps {steps} x {key} {envs}"
    count, size = getattr(algorithm, "minibatches", None), getattr(algorithm, "minibatch_size", None)
    if isinstance(size, int):
        rows, rest = (size // steps, size % steps) if recurrent else (size, 0)
        if rest or not rows or batch % rows:
            raise ConfigError(
                f"algorithm.minibatch_size {size} does not divide the batch of {steps * envs} steps "
                f"(rollout_steps {steps} x {key} {envs})"
                + (f" into whole sequences of {steps} steps." if recurrent else "."),
                "Change one of the three.",
            )
        return rows
    if isinstance(count, int) and batch % count:
        raise ConfigError(
            f"algorithm.minibatches {count} does not divide the batch of {batch} {_row_name(config)} ({made_of}).",
            "Change one of them.",
        )
    return batch // count if isinstance(count, int) else batch


def _row_name(config: RunConfig) -> str:
    return "environments (whole sequences, recurrent policy)" if config.model.recurrent else "steps"


def fill_algorithm(config: RunConfig, algorithm: AlgorithmConfig) -> RunConfig:
    """Return the config with all keys of the algorithm, as kept in the run folder."""
    return config.model_copy(update={"algorithm": algorithm.model_dump(mode="json")})
