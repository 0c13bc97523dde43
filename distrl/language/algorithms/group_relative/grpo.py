"""Group relative policy optimization."""

from __future__ import annotations

from distrl.base.registry import register
from distrl.language.algorithms.base import LanguageAlgorithm


@register.algorithm("grpo", paper="DeepSeekMath: Group Relative Policy Optimization, Shao et al. 2024")
class GRPO(LanguageAlgorithm):
    """GRPO: rewards relative to the group, with PPO's clipped ratio per token.

    Every component is one config word, so most variants are this algorithm with another word: `advantage: mc_grpo`,
    `aggregation: seq_mean_token_mean`, `objective: cispo`, ...
    """
