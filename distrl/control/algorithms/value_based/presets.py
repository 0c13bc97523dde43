"""Presets of `dqn`: the distributional learners of the literature, and Rainbow."""

from __future__ import annotations

from distrl.config.schedule import Schedule
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.algorithms.value_based.dqn import DQN
from distrl.learning.presets import preset

C51 = preset(
    "c51",
    of=DQN,
    paper="A Distributional Perspective on Reinforcement Learning, Bellemare et al. 2017",
    entries=[102],
    line="DQN with a categorical return distribution; `v_min` to `v_max` must hold every return.",
    head=ReturnHeadConfig(name="categorical", size=51, v_min=-10.0, v_max=10.0),
    learning_rate=2.5e-4,
    adam_eps=0.01 / 32,
)

QRDQN = preset(
    "qr_dqn",
    of=DQN,
    paper="Distributional Reinforcement Learning with Quantile Regression, Dabney et al. 2018",
    line="DQN with quantiles of the return.",
    head=ReturnHeadConfig(name="quantile", size=32),
)

IQN = preset(
    "iqn",
    of=DQN,
    paper="Implicit Quantile Networks for Distributional Reinforcement Learning, Dabney et al. 2018",
    entries=[3],
    line="DQN with the quantile function of the return as a network.",
    head=ReturnHeadConfig(name="iqn", size=8, acting_size=32),
)

FQF = preset(
    "fqf",
    of=DQN,
    paper="Fully Parameterized Quantile Function for Distributional Reinforcement Learning, Yang et al. 2019",
    line="DQN with quantiles at learned fractions.",
    head=ReturnHeadConfig(name="fqf", size=32),
)

MD3QN = preset(
    "md3qn",
    of=DQN,
    paper="Distributional Reinforcement Learning for Multi-Dimensional Reward Functions, Zhang et al. 2021",
    entries=[14],
    line="DQN with the joint distribution of several reward channels, by maximum mean discrepancy.",
    head=ReturnHeadConfig(name="joint", size=32, channels=2),
)

Rainbow = preset(
    "rainbow",
    of=C51,
    paper="Rainbow: Combining Improvements in Deep Reinforcement Learning, Hessel et al. 2018",
    line="C51 with double, dueling, prioritized, noisy and 3-step learning.",
    learning_rate=6.25e-5,
    adam_eps=1.5e-4,
    batch_size=32,
    replay_ratio=0.25,
    target_interval=2000,
    next_action="double",
    dueling=True,
    noisy=True,
    prioritized=True,
    priority_alpha=0.5,
    priority_beta=Schedule(0.4, 1.0, 1_000_000),
    n_step=3,
)
