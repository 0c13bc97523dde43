"""Orchestrated value mapping: DQN on reward channels with nonlinear maps (as LogDQN)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.control.algorithms.off_policy import OffPolicyConfig
from distrl.control.algorithms.value_based.dqn import DQN, DQNConfig
from distrl.functional.distributions.mapped_channels import MappedChannels
from distrl.functional.distributions.value_maps import banded_channels, make_value_map


class OrchestratedConfig(DQNConfig):
    """Keys of `dqn`, and the maps. The head is made from them: `head` and `risk` are not used."""

    gain_map: Literal["identity", "log", "symlog", "sqrt"] = "log"
    """Map of the values of gains, max(r, 0). `log` shows differences many steps before a reward."""
    loss_map: Literal["identity", "log", "symlog", "sqrt"] = "log"
    """Map of the values of losses, max(-r, 0). `identity` here is the paper's LogLin."""
    edges: list[float] = []
    """Sizes of rewards that split gains and losses into further channels, ascending, above 0. Usual: none."""
    map_k: float = Field(100.0, gt=0)
    """log: how many steps ahead still count. Larger: finer near 0. Usual: 20-100."""
    map_c: float = Field(0.5, gt=0)
    """log: scale of the mapped values. Usual: 0.5."""

    @model_validator(mode="after")
    def _one_step(self) -> OrchestratedConfig:
        if self.n_step > 1 or self.munchausen or self.next_action == "soft":
            raise ConfigError(
                "orchestrated_mapping splits each reward into channels, without n-step sums and entropy.",
                "Set n_step=1, munchausen=0, and next_action to greedy or double.",
            )
        if any(edge <= 0 for edge in self.edges) or sorted(set(self.edges)) != self.edges:
            raise ConfigError(f"algorithm.edges is {self.edges}; expected ascending sizes above 0.", "Such as [1.0].")
        if self.risk is not None:
            raise ConfigError("orchestrated_mapping learns means only, so it has no risk.", "Leave out algorithm.risk.")
        if not 0 < self.at(0, 1).gamma < 1:
            raise ConfigError(
                f"orchestrated_mapping needs gamma between 0 and 1, not {self.gamma}.", "Usual: 0.96-0.99."
            )
        return self


@register.algorithm(
    "orchestrated_mapping",
    paper="Orchestrated Value Mapping for Reinforcement Learning, Fatemi and Tavakoli 2022",
    entries=[11],
)
class OrchestratedMapping(DQN):
    """DQN with mapped reward channels. Fatemi, Tavakoli 2022; LogDQN: van Seijen et al. 2019."""

    Config = OrchestratedConfig

    @classmethod
    def policy_options(cls, config: OrchestratedConfig) -> dict[str, object]:  # type: ignore[override]
        return {"head": make_distribution(config), "dueling": config.dueling, "noisy": config.noisy}

    @classmethod
    def replay_columns(cls, config: OffPolicyConfig) -> dict[str, int]:
        return {}  # channels are made from the reward

    def rewards(self, batch: Columns) -> Tensor:
        return banded_channels(batch.reward, self.config.edges)[0]


def make_distribution(config: OrchestratedConfig) -> MappedChannels:
    """Build the mapped channels of a config: gains first, then losses."""
    bands = len(config.edges) + 1
    names = [config.gain_map] * bands + [config.loss_map] * bands
    options = {"gamma": float(config.at(0, 1).gamma), "k": config.map_k, "c": config.map_c}
    return MappedChannels([make_value_map(name, **options) for name in names], (1.0,) * bands + (-1.0,) * bands)
