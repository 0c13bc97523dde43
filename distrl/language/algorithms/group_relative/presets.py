"""Presets of `grpo`: methods that are a choice of components."""

from __future__ import annotations

from distrl.language.algorithms.base import ComponentConfig
from distrl.language.algorithms.group_relative.grpo import GRPO
from distrl.learning.presets import preset

#: The higher upper clip keeps unlikely tokens alive.
CLIP_HIGHER: ComponentConfig = {"name": "token_ppo", "clip_low": 0.2, "clip_high": 0.28}

DAPO = preset(
    "dapo",
    of=GRPO,
    paper="DAPO, Yu et al. 2025",
    line="GRPO with a higher upper clip and token-level aggregation, without a divergence.",
    objective=CLIP_HIGHER,
)

DrGRPO = preset(
    "dr_grpo",
    of=GRPO,
    paper="Understanding R1-Zero-Like Training, Liu et al. 2025",
    line="GRPO without division by the group's deviation or the answer's length.",
    advantage="dr_grpo",
    aggregation="seq_mean_token_sum_norm",
)

RLOO = preset(
    "rloo",
    of=GRPO,
    paper="Back to Basics: RLOO, Ahmadian et al. 2024",
    line="REINFORCE with a leave-one-out baseline; the whole answer is one action.",
    advantage="rloo",
    objective="token_reinforce",
    aggregation="seq_mean_token_sum",
)

Reinforce = preset(
    "reinforce",
    of=GRPO,
    paper="Williams 1992",
    line="REINFORCE on answers, without a baseline.",
    group_size=1,
    advantage="reinforce",
    objective="token_reinforce",
    aggregation="seq_mean_token_sum",
)

ReinforcePlusPlus = preset(
    "reinforce_plus_plus",
    of=GRPO,
    paper="REINFORCE++, Hu 2025",
    line="PPO's clipped objective without a critic, advantages standardized over the batch.",
    credit="outcome",
    advantage="reinforce_plus_plus",
)

GSPO = preset(
    "gspo",
    of=GRPO,
    paper="Group Sequence Policy Optimization, Zheng et al. 2025",
    line="Group sequence policy optimization: clipped geometric-mean ratio of whole answers.",
    objective="gspo",
    minibatches=4,
)

CISPO = preset(
    "cispo",
    of=GRPO,
    paper="MiniMax-M1, 2025",
    line="Clipped importance-sampling policy optimization: a clipped weight, no clipped gradient.",
    objective="cispo",
)

Rebel = preset(
    "rebel",
    of=GRPO,
    paper="REBEL, Gao et al. 2024",
    entries=[29],
    line="Regression of log-ratio differences on reward differences of a group's pairs.",
    objective="rebel",
    advantage="reinforce",  # shown in the curves only
)

QuantileGRPO = preset(
    "quantile_grpo",
    of=GRPO,
    paper="Quantile Advantage Estimation, 2025",
    entries=[4],
    line="GRPO with a quantile of the group's rewards as the baseline.",
    advantage={"name": "quantile_advantage", "level": 0.4},
    objective=CLIP_HIGHER,
)

MedianGRPO = preset(
    "mc_grpo",
    of=GRPO,
    paper="MC-GRPO: Median-Centered Group Relative Policy Optimization",
    entries=[134],
    line="GRPO with median and median absolute deviation, for small groups.",
    advantage="mc_grpo",
)

BNPO = preset(
    "bnpo",
    of=GRPO,
    paper="BNPO: Beta Normalization Policy Optimization",
    entries=[39],
    line="GRPO for rewards of 0 and 1, divided by a Beta density of the batch's success rates.",
    advantage="bnpo",
)


class AllRewards(GRPO):
    """GRPO for several rewards; by default all components of the task."""

    all_components = True


GDPO = preset(
    "gdpo",
    of=AllRewards,
    paper="GDPO: Group reward-Decoupled Normalization",
    entries=[146],
    line="GRPO with every reward component normalized in its group before summation.",
    advantage="gdpo",
)

StableReinforce = preset(
    "stable_reinforce",
    of=GRPO,
    paper="R1-Reward: StableReinforce",
    entries=[161],
    line="GRPO with log-ratios bounded before exponentiation.",
    objective="stable_reinforce",
)

DRPO = preset(
    "drpo",
    of=GRPO,
    paper="DRPO: Decoupled Reward Policy Optimization",
    entries=[99],
    line="Decoupled baselines of right and wrong answers; short right answers weigh more.",
    objective="drpo",
    advantage="reinforce",  # shown in the curves only
)
