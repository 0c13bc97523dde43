"""`ControlPlan`: a run in Gymnasium environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distrl.base.errors import ConfigError
from distrl.base.phases import Phases
from distrl.base.registry import user_sources
from distrl.base.seeds import seed_for
from distrl.config.schema import RunConfig
from distrl.control.algorithms.off_policy import OffPolicy
from distrl.control.envs.backends.interface import VectorEnv
from distrl.control.envs.make import make_env
from distrl.control.envs.make_vector import make_vector
from distrl.control.envs.spaces import require_supported
from distrl.control.learner.learner import ControlLearner
from distrl.control.learner.replay_learner import ReplayLearner
from distrl.control.samplers.sampler import EnvSampler
from distrl.deploy.evaluate import Evaluator
from distrl.experience.rollout import check_rollout
from distrl.experience.schema import SchemaCheck
from distrl.learning.shards import Shards
from distrl.runtime.plan.base import Plan, pick_device, search_path
from distrl.runtime.plan.replay import build_hindsight, build_replay, probe, require_memory_for_replay
from distrl.store.replay.sharded import ShardHandle


class ControlPlan(Plan):
    """A checked run of environments."""

    @property
    def off_policy(self) -> bool:
        return issubclass(self.algorithm_class, OffPolicy)

    def build_learner(
        self, shards: Shards | None = None, phases: Phases | None = None, replay_shards: Sequence[ShardHandle] = ()
    ) -> ControlLearner:
        config = self.config
        algorithm = self.algorithm_class(
            self.algorithm_config,
            self.build_model(),
            device=pick_device(config.learner.device),
            shards=shards or Shards(config.learner.shards),
            bf16=config.learner.precision == "bf16",
            compile=config.learner.compile,
        )
        names = ("normalize_obs", "normalize_reward", "clip_reward")
        options: dict[str, Any] = {"phases": phases, **{name: getattr(config.environment, name) for name in names}}
        if isinstance(algorithm, OffPolicy):
            replay = build_replay(self, replay_shards)
            options |= {"hindsight": build_hindsight(self), "total": config.stop.env_steps}
            return ReplayLearner(algorithm, replay, config.seed, **options)
        return ControlLearner(algorithm, config.seed, **options)

    def build_sampler(self, index: int, *, reuse_buffers: bool, phases: Phases | None = None) -> EnvSampler:
        config, algorithm = self.config, self.algorithm_config

        def make_stream_env(stream: int, start: int) -> VectorEnv:
            # Without snapshots a moved stream starts from new resets; `start` gives it seeds that it has not had.
            line = ("env", stream) if self.snapshots else ("env", stream, start)
            count = config.environment.envs_per_stream
            return make_vector(config.environment, count, lambda i, episode: seed_for(config.seed, *line, i, episode))

        return EnvSampler(
            index,
            self.build_acting_model(),
            make_stream_env,
            rollout_steps=algorithm.rollout_steps,
            seed=config.seed,
            gamma=float(algorithm.at(0, config.stop.env_steps).gamma),
            fuse=not config.deterministic,
            normalize_obs=config.environment.normalize_obs,
            normalize_reward=config.environment.normalize_reward,
            reuse_buffers=reuse_buffers,
            snapshots=self.snapshots,
            raw_obs=self.off_policy,
            phases=phases,
        )

    def build_evaluator(self) -> Evaluator:
        seed = self.config.seed if self.config.eval.seed is None else self.config.eval.seed
        return Evaluator(self.config.environment, self.config.eval.num_envs, seed)

    def schema_check(self) -> SchemaCheck:
        return SchemaCheck(check_rollout, self.config.debug)


def make_control_plan(config: RunConfig) -> ControlPlan:
    """Check everything that needs an environment; the config has every key of the algorithm."""
    env = make_env(config.environment)
    try:
        require_supported(env.observation_space, env.action_space, str(config.environment.id))
        spaces = env.observation_space, env.action_space
    finally:
        env.close()
    if config.environment.backend == "vector":  # reports now what this environment does not support
        make_vector(config.environment, 1, lambda i, episode: config.seed).close()
    snapshots = config.environment.backend == "gymnasium" and config.environment.snapshot != "off"
    if snapshots:
        from distrl.control.envs.checker.check import probe_snapshot

        reason = probe_snapshot(config.environment)
        if reason and config.deterministic:
            raise ConfigError(
                f"deterministic: true, but {config.environment.id} cannot be restored exactly: {reason}",
                "Use deterministic=false, or fix the environment (distrl doctor --env ID shows more).",
            )
        snapshots = reason is None
    plan = ControlPlan(config, *spaces, snapshots, search_path(), user_sources(config.imports))
    if plan.off_policy:
        plan.masked = probe(plan)
        plan.build_model()  # an algorithm that cannot use these spaces raises here
        require_memory_for_replay(plan)
        build_hindsight(plan)  # raises here what it does not support
    return plan
