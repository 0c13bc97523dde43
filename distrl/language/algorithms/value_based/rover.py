"""ROVER: values of the uniformly random policy in the logits."""

from __future__ import annotations

import torch
from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithmConfig
from distrl.language.algorithms.whole_vocabulary import WholeVocabulary


class RoverConfig(LanguageAlgorithmConfig):
    """ROVER: values of the uniformly random policy, relative to those before the update."""

    objective: ComponentConfig = {"name": "rover", "rho": 1.0, "next_q_coef": 1.0}
    """Squared Bellman residual of Q = rho (log pi - log pi_old). Usual: next_q_coef 0.2-1."""
    advantage: ComponentConfig = "dr_grpo"
    """Reward - group mean: the reward of every token."""
    old_logp: str = Field("recompute", pattern="^recompute$")
    """The weights before the update: values are relative to them, over the whole vocabulary."""
    entropy_coef: float = Field(0.0, ge=0, le=0)
    """No bonus: the logits are values, and their spread is that of the values."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps in a pass. The first one is Dr. GRPO's; the later ones regress, where others clip."""


@register.algorithm("rover", paper="ROVER: Random Policy Valuation, 2025", entries=[62])
class Rover(WholeVocabulary):
    """Random policy valuation: the random policy's values rank actions as the best policy's.

    The target bootstraps from the mean over the whole vocabulary at the next token, so float32 is needed.
    """

    Config = RoverConfig

    @torch.no_grad()
    def compute_old_logp(self, batch: Columns) -> Columns:
        rows = torch.arange(len(batch.tokens), device=self.device).split(self.config.micro_batch)
        found = [self.logit_columns(batch[index]) for index in rows]
        logp, _, mean = (torch.cat(column) for column in zip(*found, strict=True))
        return batch.with_(old_logp=logp, old_mean_logp=mean)

    def forward(self, part: Columns) -> Columns:
        logp, _, mean = self.logit_columns(part)
        return part.with_(logp=logp, mean_logp=mean.detach())
