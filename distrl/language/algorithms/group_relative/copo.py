"""COPO: the loss of a prompt blended with one across the prompts of the batch."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.language.advantages.batch import copo_global
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.losses.group import consistency_weight


class COPOConfig(LanguageAlgorithmConfig):
    """COPO: a global loss across prompts, weighted by the agreement of a prompt's answers."""

    objective: ComponentConfig = "copo"
    """Two clipped losses, blended by how much the answers agree."""
    aggregation: ComponentConfig = "group_mean"
    """Every prompt counts alike."""
    steepness: float = Field(3.0, gt=0)
    """Steepness of the blend from global to local. Large: a switch."""
    threshold: float = 1.0
    """Entropy of a prompt's answers, in nats, at which both count alike. Below 0 with a large steepness: GRPO."""
    forced: bool = False
    """Only the global loss where all answers of a prompt have one reward."""
    entropy_penalty: float = Field(0.0, ge=0)
    """Mean rewards are multiplied by 1 - this * entropy of the answers. Usual: 0."""


@register.algorithm("copo", paper="COPO: Consistency-Aware Policy Optimization, 2025", entries=[108])
class COPO(LanguageAlgorithm):
    """GRPO's loss blended with one of the prompt's place among the batch's prompts."""

    Config = COPOConfig

    def add_columns(self, batch: Columns) -> Columns:
        config = self.config
        return batch.with_(
            global_advantage=copo_global(
                batch.reward, batch.group, batch.answer, entropy_penalty=config.entropy_penalty
            ),
            local_weight=consistency_weight(
                batch.answer,
                batch.group,
                batch.reward,
                steepness=config.steepness,
                threshold=config.threshold,
                forced=config.forced,
            ),
        )

    def batch_metrics(self, batch: Columns) -> dict[str, float]:
        """Answers that teach nothing are those that both terms pass by."""
        found = super().batch_metrics(batch)
        found["text/zero_advantage_share"] = float((blended(batch) == 0).double().mean())
        found["text/local_weight"] = float(batch.local_weight.double().mean())
        return found


def blended(batch: Columns) -> Tensor:
    """The advantage that both of COPO's terms have together while the ratio is 1. (N,)."""
    weight = batch.local_weight
    return torch.lerp(batch.global_advantage.to(weight), batch.advantage.to(weight), weight)
