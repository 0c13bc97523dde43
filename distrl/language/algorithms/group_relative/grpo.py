"""Language-model algorithms that are choices of links: their configs are their papers' words."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig, Word


@register.algorithm("grpo", paper="DeepSeekMath: Group Relative Policy Optimization, Shao et al. 2024")
class GRPO(LanguageAlgorithm):
    """Group relative policy optimization: an answer's reward against those of its group, PPO's clipped ratio per token.

    Every link is one config word, so most variants are this algorithm with another word: `advantage: mc_grpo`,
    `aggregation: seq_mean_token_mean`, `objective: cispo`, ...
    """


class DAPOConfig(LanguageAlgorithmConfig):
    """DAPO's four switches that belong to the loss; overlong shaping is `reward.length: overlong`."""

    objective: Word = {"name": "token_ppo", "clip_low": 0.2, "clip_high": 0.28}
    """The higher upper clip keeps unlikely tokens alive."""


@register.algorithm("dapo", paper="DAPO, Yu et al. 2025")
class DAPO(LanguageAlgorithm):
    """GRPO with a higher upper clip and token-level aggregation, without a divergence."""

    Config: ClassVar[type[AlgorithmConfig]] = DAPOConfig


class DrGRPOConfig(LanguageAlgorithmConfig):
    """Dr. GRPO: no division by the group's deviation nor by an answer's length."""

    advantage: Word = "dr_grpo"
    """Reward - group mean."""
    aggregation: Word = "seq_mean_token_sum_norm"
    """One constant for all tokens: the generation budget."""


@register.algorithm("dr_grpo", paper="Understanding R1-Zero-Like Training, Liu et al. 2025")
class DrGRPO(LanguageAlgorithm):
    """GRPO without its two biases."""

    Config: ClassVar[type[AlgorithmConfig]] = DrGRPOConfig


class RLOOConfig(LanguageAlgorithmConfig):
    """RLOO: REINFORCE with the other answers' mean as the baseline; the whole answer is one action."""

    advantage: Word = "rloo"
    """Reward - mean of the group's other rewards."""
    objective: Word = "token_reinforce"
    """-advantage log pi."""
    aggregation: Word = "seq_mean_token_sum"
    """The whole answer is one action."""


@register.algorithm("rloo", paper="Back to Basics: RLOO, Ahmadian et al. 2024")
class RLOO(LanguageAlgorithm):
    """REINFORCE with a leave-one-out baseline."""

    Config: ClassVar[type[AlgorithmConfig]] = RLOOConfig


class ReinforceConfig(LanguageAlgorithmConfig):
    """Plain REINFORCE."""

    group_size: int = Field(1, ge=1)
    """Answers to each prompt. Usual: 1."""
    advantage: Word = "reinforce"
    """The reward itself."""
    objective: Word = "token_reinforce"
    """-advantage log pi."""
    aggregation: Word = "seq_mean_token_sum"
    """The whole answer is one action."""


@register.algorithm("reinforce", paper="Williams 1992")
class Reinforce(LanguageAlgorithm):
    """REINFORCE on answers."""

    Config: ClassVar[type[AlgorithmConfig]] = ReinforceConfig


class ReinforcePlusPlusConfig(LanguageAlgorithmConfig):
    """REINFORCE++: rewards to go, standardized over the batch."""

    credit: Word | None = "outcome"
    """The reward stands on the last token."""
    advantage: Word = "reinforce_plus_plus"
    """Reward to go, standardized over all tokens of the batch."""


@register.algorithm("reinforce_plus_plus", paper="REINFORCE++, Hu 2025")
class ReinforcePlusPlus(LanguageAlgorithm):
    """PPO's clipped objective without a critic, advantages standardized over the batch."""

    Config: ClassVar[type[AlgorithmConfig]] = ReinforcePlusPlusConfig


class GSPOConfig(LanguageAlgorithmConfig):
    """GSPO: the ratio of whole answers, per token."""

    objective: Word = "gspo"
    """Clipped ratio of the geometric mean over an answer's tokens."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps in a pass. Its clip range is made for several."""


@register.algorithm("gspo", paper="Group Sequence Policy Optimization, Zheng et al. 2025")
class GSPO(LanguageAlgorithm):
    """Group sequence policy optimization."""

    Config: ClassVar[type[AlgorithmConfig]] = GSPOConfig


class CISPOConfig(LanguageAlgorithmConfig):
    """CISPO: the ratio is clipped as a weight, so no token loses its gradient."""

    objective: Word = "cispo"
    """Clipped importance weight times log pi."""


@register.algorithm("cispo", paper="MiniMax-M1, 2025")
class CISPO(LanguageAlgorithm):
    """Clipped importance-sampling policy optimization."""

    Config: ClassVar[type[AlgorithmConfig]] = CISPOConfig


class RebelConfig(LanguageAlgorithmConfig):
    """REBEL: regress log-ratio differences on reward differences of a group's pairs."""

    objective: Word = "rebel"
    """Squared error of pairs."""
    advantage: Word = "reinforce"
    """Not read by the loss: shown in the curves."""


@register.algorithm("rebel", paper="REBEL, Gao et al. 2024", entries=[29])
class Rebel(LanguageAlgorithm):
    """Relative reward regression."""

    Config: ClassVar[type[AlgorithmConfig]] = RebelConfig
