"""`Plan`: a checked config that builds the sampler, learner or evaluator of a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from gymnasium import Space

from distrl.base.errors import ConfigError
from distrl.base.phases import Phases
from distrl.base.registry import import_user_code
from distrl.base.seeds import seed_for
from distrl.config.algorithm import check_algorithm
from distrl.config.schema import RunConfig
from distrl.experience.schema import SchemaCheck
from distrl.experience.weights import Weights
from distrl.learning.algorithm import Algorithm
from distrl.learning.lookup import algorithm_class, build_acting_model, build_model
from distrl.learning.shards import Shards
from distrl.store.replay.sharded import ShardHandle


@dataclass(frozen=True)
class WeightChannel:
    """A direct channel for new weights from the learner to samplers in the middle of a batch."""

    sender: Callable[[], Callable[[Weights], None]]  # makes the learner's end: call it with every version
    receiver: Callable[[], Callable[[int], Weights | None]]  # makes a sampler's end: version -> newer weights, or None


@dataclass
class Plan:
    """A checked run, sent whole to every process."""

    config: RunConfig  # with every key of the algorithm
    observation_space: Space[Any]  # of one environment, wrappers included; for text, of one token
    action_space: Space[Any]
    snapshots: bool  # streams can be restored exactly
    search_path: list[str] = field(default_factory=list)  # of the starting process, for user code
    sources: dict[str, str] = field(default_factory=dict)  # of Python files in `imports`, for other machines
    masked: bool = False  # the environment reports its allowed actions
    folder: str = ""  # the run folder
    weight_channel: WeightChannel | None = None  # set by a backend that has one, if `swaps_weights`

    def enter_process(self) -> None:
        """Make user code importable in a new process."""
        sys.path.extend(path for path in self.search_path if path not in sys.path and Path(path).is_dir())
        import_user_code(self.config.imports, self.sources)

    @property
    def algorithm_class(self) -> type[Algorithm]:
        return algorithm_class(self.config)

    @cached_property
    def algorithm_config(self) -> Any:
        return check_algorithm(self.config, self.algorithm_class.Config)

    @property
    def off_policy(self) -> bool:
        """True where fragments go into a replay."""
        return False

    @property
    def ordered(self) -> bool:
        """True where batch n is fragment n of every stream: deterministic, or no staleness."""
        return self.config.deterministic or self.config.store.max_staleness == 0

    @property
    def swaps_weights(self) -> bool:
        """True where samplers take new weights in the middle of a batch."""
        return False

    def build_model(self) -> Any:
        """Build fresh networks with everything that is trained, equal in every process."""
        seed = seed_for(self.config.seed, "init")
        return build_model(self.config, self.observation_space, self.action_space, seed)

    def build_acting_model(self) -> Any:
        """Build the networks that published weights are loaded into."""
        return build_acting_model(self.config, self.observation_space, self.action_space)

    def build_learner(
        self, shards: Shards | None = None, phases: Phases | None = None, replay_shards: Sequence[ShardHandle] = ()
    ) -> Any:
        """Build a fresh learner, in a data-parallel group with `shards`."""
        raise NotImplementedError

    def build_sampler(self, index: int, *, reuse_buffers: bool, phases: Phases | None = None) -> Any:
        """Build sampler number `index`, without streams."""
        raise NotImplementedError

    def build_evaluator(self) -> Any:
        raise NotImplementedError

    def schema_check(self) -> SchemaCheck:
        raise NotImplementedError


def search_path() -> list[str]:
    """Return `sys.path` in a form that holds in other working directories."""
    return [path or os.getcwd() for path in sys.path]


def pick_device(name: str) -> str:
    """Resolve `auto` to a GPU if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"learner.device is {name}, but torch sees no GPU here.", "Use learner.device=auto.")
    return name
