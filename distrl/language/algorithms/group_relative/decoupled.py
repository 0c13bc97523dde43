"""Decoupled PPO: the trust region is around a proximal policy, not the behavior policy.

Ordinary PPO takes its ratio to the behavior policy. Where data are some versions old, that ratio is far from 1 before
the first step, and the clip removes the gradient of exactly those tokens that moved. Here the ratio is taken to the
proximal policy, the weights just before the update, and the weight proximal / behavior corrects for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.language import LanguageConfig
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.losses.token import proximal_by_versions

VERSIONS = "versions"


class DecoupledPPOConfig(LanguageAlgorithmConfig):
    """Decoupled PPO, for asynchronous runs: `store.max_staleness` of 1 and more."""

    objective: ComponentConfig = {"name": "decoupled_ppo", "cap": 5.0, "mode": "mask"}
    """Clipped ratio to the proximal policy, weighted by proximal / behavior. Weights beyond `cap` count 0 (`mask`), or
    `cap` (`truncate`)."""
    old_logp: str = Field("recompute", pattern="^(recompute|versions)$")
    """The proximal log-probabilities: computed again with the weights before the update, one forward pass; or
    `versions`, between the behavior's and the present ones according to the tokens' age, at no cost."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps in a pass. With one alone the ratio to the proximal policy never leaves 1."""


@register.algorithm(
    "decoupled_ppo", paper="Batch size-invariance for policy optimization, Hilton et al. 2022; AReaL, Fu et al. 2025"
)
class DecoupledPPO(LanguageAlgorithm):
    """PPO with three policies: behavior, proximal, present. On fresh data it is ordinary PPO."""

    Config = DecoupledPPOConfig

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        super().begin(components, settings)
        if "behavior_logp" not in self.objective.reads():
            raise ConfigError(
                f"algorithm.objective {self.objective.objective.name} does not use a behavior policy.",
                "Leave it at decoupled_ppo, or choose algorithm.name=grpo with this objective.",
            )

    def forward(self, part: Columns) -> Columns:
        """With `old_logp: versions` the proximal policy lies between behavior and present policy.

        A token of d versions ago was drawn d versions before the proximal policy, which is one before the present one.
        """
        part = super().forward(part)
        if self.config.old_logp != VERSIONS:
            return part
        age = part.age.to(part.logp.dtype)
        return part.with_(old_logp=proximal_by_versions(part.logp, part.behavior_logp, age / (age + 1.0)))
