"""Presets of `td3` and `sac`."""

from __future__ import annotations

from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.algorithms.actor_critic.sac import SAC
from distrl.control.algorithms.actor_critic.td3 import TD3
from distrl.learning.presets import preset

DDPG = preset(
    "ddpg",
    of=TD3,
    paper="Continuous Control with Deep Reinforcement Learning, Lillicrap et al. 2016",
    line="Deep deterministic policy gradient, with independent Gaussian noise for exploration.",
    critics=1,
    policy_interval=1,
    target_interval=1,
    target_noise=0.0,
)

#: Algorithm 1; the actor sees the mean of all critics. Resets: Nikishin et al. 2022.
REDQ = preset(
    "redq",
    of=SAC,
    paper="Randomized Ensembled Double Q-Learning, Chen et al. 2021; resets: Nikishin et al. 2022",
    line="SAC at a high replay ratio: targets from a random pair of ten critics.",
    replay_ratio=20.0,
    critics=10,
    ensemble="subset",
    policy_interval=20,
)

#: Equations 10-14; the actor sees the mean of all atoms. The paper takes five critics of three layers of 512 units; two
#: of 256-256 are close at a third of the cost.
TQC = preset(
    "tqc",
    of=SAC,
    paper="Controlling Overestimation Bias with Truncated Mixture of Continuous Distributional Quantile Critics, "
    "Kuznetsov et al. 2020",
    entries=[77],
    line="SAC with quantile critics whose pooled targets lose their largest atoms.",
    critic_head=ReturnHeadConfig(name="quantile", size=25),
    ensemble="truncate",
)

DSACQuantile = preset(
    "dsac_quantile",
    of=SAC,
    paper="DSAC: Distributional Soft Actor-Critic for Risk-Sensitive Reinforcement Learning, Ma et al. 2020",
    line="SAC with quantile critics, and risk measures for its policy.",
    critic_head=ReturnHeadConfig(name="quantile", size=32),
    ensemble="quantile_min",
)
