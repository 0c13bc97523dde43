"""PG-Rainbow: PPO whose critic reads the quantiles of an IQN that learns off-policy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import Space
from pydantic import Field, model_validator
from torch import Tensor

from distrl.base.columns import Columns, tree_map
from distrl.base.errors import ConfigError, NonFiniteError
from distrl.base.pack import State
from distrl.base.registry import register
from distrl.config.schedule import Scheduled
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.algorithms.off_policy import ActingModel
from distrl.control.algorithms.on_policy.ppo import PPO, PPOConfig
from distrl.control.algorithms.on_policy.transition_ring import TransitionRing
from distrl.control.algorithms.value_based.dqn import DQNConfig
from distrl.control.algorithms.value_based.presets import IQN
from distrl.control.models.distilled_critic import DistilledActorCritic
from distrl.control.models.q_network import QModel, QPolicy
from distrl.learning.algorithm import Update
from distrl.models.parameters.seeded import seeded
from distrl.store.limiter import Limiter

#: How fast the scale of the quantiles follows them, per update.
SCALE_RATE = 0.05


class PGRainbowConfig(PPOConfig):
    """Keys of `ppo`, and those of the side network (`side_...`) and of the distillation."""

    quantiles: int = Field(32, ge=1)
    """Quantiles that the critic reads, N. Usual: 8-64."""
    distill: Literal["mlp", "mean"] = "mlp"
    """f of V = f(V * quantiles): a small network, or the mean."""
    distill_hidden: int = Field(128, ge=1)
    """Units of that network. Usual: 64-256."""
    quantiles_of: Literal["policy", "greedy"] = "policy"
    """Quantiles of which action: the policy's on average, or the side network's best one."""
    side_start: int = Field(5000, ge=0)
    """Environment steps before the critic reads quantiles; until then all are 1. Usual: 2000-20000."""
    side_learning_rate: Scheduled[float] = Field(5e-4, ge=0)
    """Step size of the side network. Usual: 5e-5 (pictures) to 5e-4 (small tasks)."""
    side_batch: int = Field(64, ge=1)
    """Transitions of one of its gradient steps. Usual: 32-128."""
    side_ratio: float = Field(0.25, gt=0)
    """Its gradient steps per environment step. Usual: 0.1-0.5."""
    side_target_interval: int = Field(500, ge=1)
    """Its gradient steps between two copies to its target network. Usual: 100-2000."""
    side_capacity: int = Field(100_000, ge=1)
    """Transitions that it learns from; both observations of each are kept, in the learner and in checkpoints."""

    @model_validator(mode="after")
    def _scalar_critic(self) -> PGRainbowConfig:
        if self.critic_head.name != "scalar":
            raise ConfigError(
                f"critic_head {self.critic_head.name} with pg_rainbow, whose critic reads another network's quantiles.",
                "Use critic_head=scalar, or ppo with that head.",
            )
        if self.side_capacity < self.side_batch:
            raise ConfigError(f"side_capacity {self.side_capacity} is less than side_batch {self.side_batch}.")
        return self

    def side(self) -> DQNConfig:
        """Return the config of the side network."""
        return IQN.Config(
            name="iqn",
            head=ReturnHeadConfig(name="iqn", size=8, acting_size=self.quantiles),
            batch_size=self.side_batch,
            target_interval=self.side_target_interval,
        )


@register.algorithm(
    "pg_rainbow",
    paper="PG-Rainbow: Using Distributional Reinforcement Learning in Policy Gradient Methods, Jeon et al. 2024",
    entries=[1],
)
class PGRainbow(PPO):
    """PPO with V = f(V_theta * quantiles of an IQN), which first learns from older batches."""

    Config = PGRainbowConfig
    model: DistilledActorCritic

    def __init__(self, config: PGRainbowConfig, model: DistilledActorCritic, **options: Any):
        super().__init__(config, model, **options)
        self.side = IQN(config.side(), QModel(model.side), device=self.device)
        self.replay = TransitionRing(config.side_capacity)
        self.limiter = Limiter(config.side_ratio, config.side_batch)

    @classmethod
    def build_model(
        cls, observation_space: Space, action_space: Space, model: Any, config: Any, **options: Any
    ) -> DistilledActorCritic:
        seed, head = options.pop("seed"), config.side().head
        if model.recurrent is not None:
            raise ConfigError(
                f"model.recurrent is {model.recurrent}, but the side network learns from single steps without memory.",
                "Set model.recurrent=null; env.frame_stack shows motion, or use ppo.",
            )
        with seeded(seed + 1):  # PPO's networks begin as PPO's do
            side = QPolicy(observation_space, action_space, model, head)
        options |= {"quantiles": config.quantiles, "averaged": config.quantiles_of == "policy"}
        hidden = config.distill_hidden if config.distill == "mlp" else 0
        with seeded(seed):
            return DistilledActorCritic(observation_space, action_space, model, side=side, hidden=hidden, **options)

    @classmethod
    def acting_model(cls, model: DistilledActorCritic) -> ActingModel:
        return ActingModel(model.policy)

    def resolve(self, env_steps: int, total: int | None) -> None:
        super().resolve(env_steps, total)
        self.side.config = self.side.schedules.model_copy(
            update={"learning_rate": float(self.config.side_learning_rate)}
        )

    def update(self, rollout: Columns, rng: np.random.Generator) -> Update:
        ready, scale = self.model.ready.clone(), self.model.scale.clone()
        # another generator: PPO's shuffles do not depend on the side network
        taken, metrics = self._learn_side(np.random.Generator(rng.bit_generator.jumped()))  # type: ignore[attr-defined]
        self._read_side(rollout)
        try:
            update = super().update(rollout, rng)
        except NonFiniteError:
            self.side.rollback()
            self.model.ready.copy_(ready)
            self.model.scale.copy_(scale)
            raise
        self.limiter.done(taken)
        self.limiter.insert(self.replay.insert(rollout, float(self.config.gamma)))
        return Update({**update.metrics, **metrics})

    def _learn_side(self, rng: np.random.Generator) -> tuple[int, dict[str, float]]:
        """Take the side network's gradient steps; returns their number and the last metrics."""
        due = self.limiter.due() if len(self.replay) else 0
        self.side.begin_steps()
        if not due:
            return 0, {}
        for _ in range(due):
            batch = self.replay.sample(self.schedules.side_batch, rng)
            update = self.side.update(batch, rng)
        self.side.end_steps(batch)
        return due, {"loss/side": float(update.metrics["loss/critic"])}

    @torch.no_grad()
    def _read_side(self, rollout: Columns) -> None:
        """Let the critic read the side network after `side_start`, and follow its scale."""
        if not self.side.gradient_steps or self.limiter.inserted < self.schedules.side_start:
            return
        obs = tree_map(lambda leaf: leaf.flatten(0, 1), rollout.obs)
        self.model.measure_scale(self.model.raw_quantiles(obs), SCALE_RATE)
        self.model.ready.fill_(True)

    def prepare(self, rollout: Columns) -> Columns:
        obs = tree_map(lambda leaf: leaf.flatten(0, 1), rollout.obs)
        quantiles = self.model.quantiles(obs).unflatten(0, rollout.reward.shape)
        return super().prepare(rollout).with_(quantiles=quantiles)

    def evaluate(self, batch: Columns) -> tuple[Tensor, Tensor]:
        return self.model.evaluate(batch.obs, quantiles=batch.get("quantiles"))

    def state(self) -> State:
        return {
            **super().state(),
            "side": self.side.state(),
            "side_replay": self.replay.state(),
            "side_limiter": self.limiter.state(),
        }

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.side.load_state(state["side"])
        self.replay.load_state(state["side_replay"], self.device)
        self.limiter.load_state(state["side_limiter"])
