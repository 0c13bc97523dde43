"""Sections `samplers`, `learner`, `store` and `ray`: the processes of a run."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from distrl.base.errors import ConfigError
from distrl.config.sections.base import Section


class SamplersConfig(Section):
    """The processes that step environments."""

    count: int = Field(1, ge=1)
    """Samplers at the start, at most `env.streams`. More are faster, on free cores; the batch stays; `distrl scale`
    changes the number during the run. Usual: 1 per core."""
    min: int | None = Field(None, ge=1)
    """With `max`: the run itself starts samplers while its learner waits for data and ends some while they wait for
    the learner, never below this number. Default: only `distrl scale` changes the number."""
    max: int | None = Field(None, ge=1)
    """With `min`: the most samplers that the run starts automatically, at most `env.streams`."""
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
    """Device of the updates: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:N`, `mps`."""
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
    """Queue and replay between samplers and learner."""

    max_staleness: int = Field(0, ge=0)
    """Largest age of consumed experience, in updates behind the learner's weights. 0: samplers wait for each update
    (on-policy); k: they run up to k+1 fragments ahead. Usual: 0-1 for PPO, 1-8 with V-trace."""
    capacity: int = Field(100_000, ge=1)
    """Transitions that the replay keeps; the oldest are overwritten. Only for off-policy algorithms. Usual: 1e5-1e6."""
    shards: int = Field(1, ge=1)
    """Parts of the replay, each in a process of its own where there are several (Ray back end). Usual: 1, or more where
    it fits into no single process."""
    memory_map: bool = False
    """Keep the replay in files of the run folder instead of memory: for one that is larger than memory, on a fast
    disk."""


class RayConfig(Section):
    """The cluster, for `backend: ray`."""

    address: str | None = None
    """Address of a running cluster (`auto` or `ray://HOST:PORT`). Default: start a local one."""
    object_store_mb: int | None = Field(None, ge=75)
    """Shared memory of a local cluster in MB. Default: Ray's own choice (a third of the memory). At least 75."""
