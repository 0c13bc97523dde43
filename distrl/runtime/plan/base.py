"""From a config to working parts. Every process of a run builds its own part from the same `Plan`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distrl.base.errors import ConfigError
from distrl.base.phases import Phases
from distrl.base.registry import import_user_code, user_sources
from distrl.base.seeds import seed_for
from distrl.config.algorithm import check_algorithm, fill_algorithm
from distrl.config.schema import RunConfig
from distrl.control.algorithms.off_policy import OffPolicy
from distrl.control.envs.make import make_env, make_vector
from distrl.control.envs.spaces import require_supported
from distrl.control.learner.learner import Learner
from distrl.control.learner.replay_learner import ReplayLearner
from distrl.control.samplers.sampler import EnvSampler
from distrl.deploy.evaluate import Evaluator
from distrl.learning.algorithm import Algorithm
from distrl.learning.lookup import algorithm_class, build_acting_model, build_model
from distrl.learning.shards import Shards
from distrl.runtime.plan.replay import build_hindsight, build_replay, probe, require_room


@dataclass
class Plan:
    """A checked run: what every process needs to build its part. Travels to Ray actors whole.

    Attributes:
        config: With every key of the algorithm written out.
        observation_space, action_space: Of one environment, wrappers included.
        snapshots: Whether environments can be restored exactly.
        search_path: Where the starting process finds modules: user code must be importable everywhere.
        sources: Text of the Python files that `imports` names, for processes that cannot see the files.
        masked: The environment tells which actions are allowed.
        folder: The run folder, where a memory-mapped replay lives; "" where there is none.
    """

    config: RunConfig
    observation_space: Any
    action_space: Any
    snapshots: bool
    search_path: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    masked: bool = False
    folder: str = ""

    def enter_process(self) -> None:
        """Make user code importable in a process that just began."""
        sys.path.extend(path for path in self.search_path if path not in sys.path and Path(path).is_dir())
        import_user_code(self.config.imports, self.sources)

    @property
    def algorithm_class(self) -> type[Algorithm]:
        return algorithm_class(self.config)

    @property
    def algorithm_config(self) -> Any:
        return check_algorithm(self.config, self.algorithm_class.Config)

    @property
    def off_policy(self) -> bool:
        """Whether fragments go into a replay."""
        return issubclass(self.algorithm_class, OffPolicy)

    @property
    def ordered(self) -> bool:
        """Batches by sequence number: always in deterministic mode, and where nothing may be stale."""
        return self.config.deterministic or self.config.store.max_staleness == 0

    def build_model(self) -> Any:
        """Fresh networks, everything that is learned; the same in every process."""
        seed = seed_for(self.config.seed, "init")
        return build_model(self.config, self.observation_space, self.action_space, seed)

    def build_acting_model(self) -> Any:
        """Networks that published weights fit into."""
        return build_acting_model(self.config, self.observation_space, self.action_space)

    def build_learner(
        self, shards: Shards | None = None, phases: Phases | None = None, replay_shards: Sequence[Any] = ()
    ) -> Learner:
        """The learner of this run, fresh.

        Args:
            shards: Logical shards of a data-parallel group.
            phases: Of this process, if it has any already.
            replay_shards: Handles of replay shards in other processes.
        """
        config = self.config
        algorithm = self.algorithm_class(
            self.algorithm_config,
            self.build_model(),
            device=pick_device(config.learner.device),
            shards=shards or Shards(config.learner.shards),
            bf16=config.learner.precision == "bf16",
            compile=config.learner.compile,
        )
        options: dict[str, Any] = {
            "normalize_obs": config.env.normalize_obs,
            "normalize_reward": config.env.normalize_reward,
            "clip_reward": config.env.clip_reward,
            "phases": phases,
        }
        if isinstance(algorithm, OffPolicy):
            replay = build_replay(self, replay_shards)
            options |= {"hindsight": build_hindsight(self), "total": config.stop.env_steps}
            return ReplayLearner(algorithm, replay, config.seed, **options)
        return Learner(algorithm, config.seed, **options)

    def build_sampler(self, index: int, *, reuse_buffers: bool, phases: Phases | None = None) -> Any:
        config, algorithm = self.config, self.algorithm_config

        def make_stream_env(stream: int, start: int) -> Any:
            # Without snapshots a stream begins anew when it moves; `start` keeps it from meeting the same seeds again.
            line = ("env", stream) if self.snapshots else ("env", stream, start)
            return make_vector(
                config.env, config.env.envs_per_stream, lambda i, episode: seed_for(config.seed, *line, i, episode)
            )

        return EnvSampler(
            index,
            self.build_acting_model(),
            make_stream_env,
            rollout_steps=algorithm.rollout_steps,
            seed=config.seed,
            gamma=float(algorithm.at(0, config.stop.env_steps).gamma),
            fuse=not config.deterministic,
            normalize_obs=config.env.normalize_obs,
            normalize_reward=config.env.normalize_reward,
            reuse_buffers=reuse_buffers,
            snapshots=self.snapshots,
            raw_obs=self.off_policy,
            phases=phases,
        )

    def build_evaluator(self) -> Any:
        seed = self.config.seed if self.config.eval.seed is None else self.config.eval.seed
        return Evaluator(self.config.env, self.config.eval.num_envs, seed)


def check_config(config: RunConfig) -> RunConfig:
    """Check the algorithm's own keys; returns the config with all of them written out."""
    return fill_algorithm(config, check_algorithm(config, algorithm_class(config).Config))


def make_plan(config: RunConfig) -> Plan:
    """Check everything that needs an environment.

    Raises:
        ConfigError, EnvError: What is wrong, and what to type.
    """
    config = check_config(config)
    if config.language is not None:
        from distrl.runtime.plan.language import make_text_plan  # which needs this module

        return make_text_plan(config)
    env = make_env(config.env)
    try:
        require_supported(env.observation_space, env.action_space, str(config.env.id))
        spaces = env.observation_space, env.action_space
    finally:
        env.close()
    if config.env.backend == "vector":  # has everything to say about this environment now
        make_vector(config.env, 1, lambda i, episode: config.seed).close()
    snapshots = config.env.backend == "gymnasium" and config.env.snapshot != "off"
    if snapshots:
        from distrl.control.envs.checker.check import probe_snapshot

        reason = probe_snapshot(config.env)
        if reason and config.deterministic:
            raise ConfigError(
                f"deterministic: true, but {config.env.id} cannot be restored exactly: {reason}",
                "Use deterministic=false, or mend the environment (distrl doctor --env ID shows more).",
            )
        snapshots = reason is None
    search_path = [path or os.getcwd() for path in sys.path]
    plan = Plan(config, *spaces, snapshots, search_path, user_sources(config.imports))
    if plan.off_policy:
        plan.masked = probe(plan)
        plan.build_model()  # an algorithm that cannot use these spaces says so now
        require_room(plan)
        build_hindsight(plan)  # what it refuses is said now
    return plan


def pick_device(name: str) -> str:
    """`auto` is a GPU where there is one.

    Raises:
        ConfigError: A GPU is asked for, and there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"learner.device is {name}, but torch sees no GPU here.", "Use learner.device=auto.")
    return name
