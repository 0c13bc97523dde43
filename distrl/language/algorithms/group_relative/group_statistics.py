"""Group statistics beyond mean and deviation: quantiles, medians, Beta distributions, several rewards."""

from __future__ import annotations

from typing import ClassVar

from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig, Word

CLIP_HIGHER: Word = {"name": "token_ppo", "clip_low": 0.2, "clip_high": 0.28}


class QuantileConfig(LanguageAlgorithmConfig):
    """Quantile advantage: the baseline is a quantile of the group's rewards, so its rarer answers teach."""

    advantage: Word = {"name": "quantile_advantage", "level": 0.4}
    """Reward minus the level's quantile."""
    objective: Word = CLIP_HIGHER
    """Token-level clipping with a higher upper clip."""


@register.algorithm("quantile_grpo", paper="Quantile Advantage Estimation, 2025", entries=[4])
class QuantileGRPO(LanguageAlgorithm):
    """GRPO with a quantile for a baseline."""

    Config: ClassVar[type[AlgorithmConfig]] = QuantileConfig


class MedianConfig(LanguageAlgorithmConfig):
    """MC-GRPO: median and median absolute deviation, which few answers can estimate."""

    advantage: Word = "mc_grpo"
    """Reward minus the median; the answer that is the median teaches nothing."""


@register.algorithm("mc_grpo", paper="MC-GRPO", entries=[134])
class MedianGRPO(LanguageAlgorithm):
    """Median-centered GRPO."""

    Config: ClassVar[type[AlgorithmConfig]] = MedianConfig


class BNPOConfig(LanguageAlgorithmConfig):
    """BNPO: rewards of 0 and 1 are divided by a Beta density that is fitted to the batch's success rates."""

    advantage: Word = "bnpo"
    """Reward minus mean, over the density at the group's success rate."""


@register.algorithm("bnpo", paper="BNPO: Beta Normalization Policy Optimization", entries=[39])
class BNPO(LanguageAlgorithm):
    """Beta normalization; for rewards of 0 and 1."""

    Config: ClassVar[type[AlgorithmConfig]] = BNPOConfig


class GDPOConfig(LanguageAlgorithmConfig):
    """GDPO: every reward part is normalized in its group before the parts are added."""

    advantage: Word = "gdpo"
    """Sum of the parts' own advantages, standardized over the batch."""


@register.algorithm("gdpo", paper="GDPO: Group reward-Decoupled Normalization", entries=[146])
class GDPO(LanguageAlgorithm):
    """GRPO for several rewards; by default all parts of the task."""

    all_parts: ClassVar[bool] = True

    Config: ClassVar[type[AlgorithmConfig]] = GDPOConfig


class StableReinforceConfig(LanguageAlgorithmConfig):
    """StableReinforce: log-ratios are bounded before they are exponentiated."""

    objective: Word = "stable_reinforce"
    """Clipped objective of a bounded ratio."""


@register.algorithm("stable_reinforce", paper="R1-Reward: StableReinforce", entries=[161])
class StableReinforce(LanguageAlgorithm):
    """GRPO with a pre-clipped ratio."""

    Config: ClassVar[type[AlgorithmConfig]] = StableReinforceConfig


class DRPOConfig(LanguageAlgorithmConfig):
    """DRPO: right answers and wrong ones do not share a baseline; short right ones weigh more."""

    objective: Word = "drpo"
    """Of whole groups: a soft maximum over wrong answers minus a weighted mean over right ones."""
    advantage: Word = "reinforce"
    """Not read by the loss: shown in the curves."""


@register.algorithm("drpo", paper="DRPO: Decoupled Reward Policy Optimization", entries=[99])
class DRPO(LanguageAlgorithm):
    """Decoupled rewards: length never turns a right answer into a bad one."""

    Config: ClassVar[type[AlgorithmConfig]] = DRPOConfig
