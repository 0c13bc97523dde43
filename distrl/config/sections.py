"""The sections of a run's config, one model each. Checks inside one section live here, across sections in `schema`."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from distrl.base.errors import ConfigError
from distrl.config.section import Section, plain

#: Neither more streams nor more samplers than this help small environments; the default for `env.streams`.
DEFAULT_STREAMS = 8

#: Default of a number that a validator works out from the other keys; typed so that readers see the number.
DERIVED: Any = None


class EnvConfig(Section):
    """Which environments the run learns from, and how observations reach the policy."""

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
    """Who steps the environments. `gymnasium`: our loop over single ones, exact and resumable. `vector`: the native
    vector version that the environment brings. `envpool`: EnvPool. The last two are fast, burn a step at resets and
    have no snapshots."""
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

    @field_validator("kwargs", mode="before")
    @classmethod
    def _plain_kwargs(cls, value: Any) -> Any:
        return plain(value, "env.kwargs")

    @field_validator("wrappers", mode="before")
    @classmethod
    def _check_wrappers(cls, value: Any) -> Any:
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
    def _default_streams(cls, value: Any, info: ValidationInfo) -> Any:
        num_envs = info.data.get("num_envs", 1)
        return largest_divisor(num_envs, DEFAULT_STREAMS) if value is None else value

    @model_validator(mode="after")
    def _streams_divide(self) -> EnvConfig:
        if self.num_envs % self.streams:
            divisors = [d for d in range(1, self.num_envs + 1) if self.num_envs % d == 0]
            raise ConfigError(
                f"env.streams {self.streams} does not divide env.num_envs {self.num_envs}.",
                f"Set env.streams to one of {', '.join(map(str, divisors[:12]))}.",
            )
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


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is not above `limit`.

    >>> largest_divisor(12, 8)
    6
    """
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


class ModelConfig(Section):
    """The networks of policy and critic."""

    torso: str = Field("auto", min_length=1)
    """What turns observations into features: `auto` (by the observation space), `mlp`, `nature_cnn`, `impala_resnet`,
    a registered name, or `module:Class`."""
    hidden: list[int] = [64, 64]
    """Units of the hidden layers of an MLP (after the convolutions, for images). Usual: 1-3 layers of 64-512."""
    activation: Literal["tanh", "relu", "elu", "silu", "gelu", "leaky_relu"] = "tanh"
    """Nonlinearity of the hidden layers. `tanh` suits small control networks, `relu` images and large networks."""
    recurrent: Literal["gru", "lstm"] | None = None
    """Memory between the features and the heads, for environments that hide part of their state."""
    recurrent_size: int = Field(64, ge=1)
    """Units of the memory. Only with `recurrent`. Usual: 32-512."""
    shared: bool = False
    """Policy and critic share their torso: cheaper, and usual for images; separate ones learn more safely elsewhere."""
    log_std_init: float = Field(0.0, ge=-10, le=3)
    """First log standard deviation of a Gaussian policy. Lower explores less. Usual: -2 to 0.5."""

    @field_validator("hidden")
    @classmethod
    def _positive_units(cls, value: list[int]) -> list[int]:
        if any(units < 1 for units in value):
            raise ValueError(f"is {value}; every layer needs at least 1 unit")
        return value


class SamplersConfig(Section):
    """The processes that step environments."""

    count: int = Field(1, ge=1)
    """Samplers at the start, at most `env.streams`. More are faster, on free cores; the batch stays; `distrl scale`
    changes the number while the run goes on. Usual: 1 per core."""
    min: int | None = Field(None, ge=1)
    """With `max`: the run itself starts samplers while its learner waits for data and ends some while they wait for
    the learner, never below this number. Default: only `distrl scale` changes the number."""
    max: int | None = Field(None, ge=1)
    """With `min`: the most samplers that the run starts by itself, at most `env.streams`."""
    threads: int = Field(1, ge=1)
    """Threads of each sampler's forward pass. Small networks are fastest with 1."""
    cpus: float | None = Field(None, ge=0)
    """CPUs that each sampler reserves on the cluster. Default: 0 on a local cluster, 1 on a remote one."""
    timeout: float = Field(120.0, gt=0)
    """Seconds that a fragment may take before its sampler counts as hung and is replaced. Usual: 30-600; above the
    slowest fragment."""


class LearnerConfig(Section):
    """The process, or group of processes, that computes updates."""

    device: str = "auto"
    """Where updates are computed: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:N`, `mps`."""
    shards: int = Field(1, ge=1)
    """Logical parts of a minibatch whose gradients are added in order. It fixes the arithmetic, so that any number of
    processes that divides it gives the same result. Usual: the most processes you will use."""
    processes: int = Field(1, ge=1)
    """Processes of the data-parallel group; must divide `shards`. Pays for large networks only."""
    sharding: Literal["fsdp"] | None = None
    """Language models only. `fsdp`: the processes share one model; each keeps a part of the parameters, gradients and
    optimizer state, and computes its own rows. For models that do not fit whole. The number of processes changes the
    last bits of sums. Default: every process has the whole model."""
    threads: int = Field(1, ge=1)
    """Threads of each process. Usual: 1 for small MLPs, up to the cores for images on a CPU."""
    compile: bool = False
    """Compile the update with torch.compile: a slow first update, faster later ones on a GPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward pass; off-policy learners keep last layers and losses in float32. `bf16` is faster
    on recent GPUs and less exact."""
    prefetch: bool = True
    """Move the next batch to the GPU while the present one is learned from (Ray back end, `max_staleness` >= 1)."""
    recover_every: int | None = Field(None, ge=0)
    """Updates between two copies of the learner's state in the loop's memory, from which a learner that died is built
    again without loss (Ray back end). 0: it is not, the run ends. Default: as often as costs at most 3 % of the time;
    small networks every update. Off-policy learners begin from the newest checkpoint instead."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError(f"is {value!r}; allowed: auto, cpu, cuda, cuda:N, mps")
        return value

    @model_validator(mode="after")
    def _processes_divide(self) -> LearnerConfig:
        if self.shards % self.processes:
            raise ConfigError(
                f"learner.processes {self.processes} does not divide learner.shards {self.shards}.",
                f"Set learner.shards to a multiple of {self.processes}, such as {self.processes}.",
            )
        if self.sharding is not None and self.processes == 1:
            raise ConfigError(
                f"learner.sharding is {self.sharding}, but learner.processes is 1: nothing can be shared.",
                "Set learner.processes=2 and learner.shards=2 or more, or remove learner.sharding.",
            )
        return self


class StoreConfig(Section):
    """What lies between samplers and learner."""

    max_staleness: int = Field(0, ge=0)
    """How many updates older than the learner's weights consumed experience may be. 0: samplers wait for each update
    (on-policy); k: they run up to k+1 fragments ahead. Usual: 0-1 for PPO, 1-8 with V-trace."""
    capacity: int = Field(100_000, ge=1)
    """Transitions that the replay keeps; the oldest make room. Only for off-policy algorithms. Usual: 1e5-1e6."""
    shards: int = Field(1, ge=1)
    """Parts of the replay, each in a process of its own where there are several (Ray back end). Usual: 1, or more where
    it fits into no single process."""
    memory_map: bool = False
    """Keep the replay in files of the run folder instead of memory: for one that is larger than memory, on a fast
    disk."""


class EvalConfig(Section):
    """Evaluation while training, on environments and seeds of its own."""

    every: int = Field(0, ge=0)
    """Environment steps between evaluations; 0 means never. Usual: 20-100 evaluations a run."""
    episodes: int = Field(10, ge=1)
    """Episodes of an evaluation. More give a steadier number. Usual: 10-100."""
    num_envs: int = Field(DERIVED, ge=1)
    """Environments of the evaluator. Default: one for each episode, at most 16."""
    deterministic: bool = True
    """Take the most likely action instead of a sampled one."""
    seed: int | None = Field(None, ge=0)
    """Seed of the episodes: runs of different seeds with the same one meet the same starts. Default: the run's."""

    @field_validator("num_envs", mode="before")
    @classmethod
    def _default_num_envs(cls, value: Any, info: ValidationInfo) -> Any:
        return min(info.data.get("episodes", 1), 16) if value is None else value


class CheckpointConfig(Section):
    """When the run is saved."""

    every: int = Field(0, ge=0)
    """Environment steps between checkpoints; 0 means only by time and at the end."""
    every_seconds: float = Field(60.0, ge=0)
    """Seconds between checkpoints; 0 means never by time. What is lost in a crash is at most this. Usual: 30-600."""
    keep: int = Field(3, ge=1)
    """How many of the newest checkpoints stay, besides the best one. Usual: 1-5."""


class StopConfig(Section):
    """When the run ends: at the first of these, seen at update boundaries. At least one must be set."""

    env_steps: int | None = Field(None, ge=1)
    """Environment steps consumed by the learner."""
    return_mean: float | None = None
    """Mean return of the last `window` finished training episodes."""
    eval_mean: float | None = None
    """Mean return of `eval_in_a_row` evaluations in a row, each of them at least this. Needs `eval.every`."""
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
        if all(
            end is None for end in (self.env_steps, self.return_mean, self.eval_mean, self.wall_seconds, self.updates)
        ):
            raise ConfigError(
                "stop has none of env_steps, return_mean, eval_mean, wall_seconds, updates; the run would never end.",
                "Set one, for example stop.env_steps=100000.",
            )
        return self


class LoggingConfig(Section):
    """What is shown and written while training."""

    every_seconds: float = Field(1.0, gt=0)
    """Seconds between two points of the curves and lines of the display. Usual: 1-30."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    console: Literal["auto", "rich", "plain", "quiet"] = "auto"
    """Display: `rich` (live), `plain` (lines, for log files), `quiet`, or `auto` (rich in a terminal, else plain)."""


class RayConfig(Section):
    """The cluster, for `backend: ray`."""

    address: str | None = None
    """Address of a running cluster (`auto` or `ray://HOST:PORT`). Default: start a local one."""
    object_store_mb: int | None = Field(None, ge=75)
    """Shared memory of a local cluster in MB. Default: Ray's own choice (a third of the memory). At least 75."""
